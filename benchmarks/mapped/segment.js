// The Responsys record in Segment's mapping kit; it has neither lower case nor two decimals, so it does less.
const path = require('path')
const root = path.join(process.cwd(), 'node_modules', '@segment', 'actions-core')
const { transform } = require(path.join(root, 'dist', 'cjs', 'mapping-kit'))
const { beside } = require('./beside.js')

const pair = (name, at) => ({
  '@if': { exists: { '@path': at }, then: { name, value: { '@template': `{{${at.slice(2)}}}` } } },
})
const mapping = {
  recipient: {
    emailAddress: { '@path': '$.email' },
    emailFormat: 'HTML_FORMAT',
    listName: { folderName: '!MasterData', objectName: 'CONTACTS_LIST' },
  },
  optionalData: [
    pair('PRODUCT_ID', '$.product.id'),
    pair('PRODUCT_NAME', '$.product.name'),
    pair('PRODUCT_PRICE', '$.product.price'),
    pair('PRODUCT_IMAGE', '$.product.image'),
    pair('PRODUCT_URL', '$.product.url'),
    pair('EVENT_TYPE', '$.eventType'),
  ],
}

beside((event) => transform(mapping, event))
