// The Responsys record as a workflow of RudderStack's engine, in its own template language.
const path = require('path')
const engines = require(path.join(process.cwd(), 'node_modules', '@rudderstack', 'workflow-engine'))
const { beside } = require('./beside.js')

const workflow = `
name: responsys
templateType: jsontemplate
steps:
  - name: record
    template: |
      const product = .product;
      const price = product.price;
      const pairs = [
        {name: "PRODUCT_ID", value: product.id},
        {name: "PRODUCT_NAME", value: product.name},
        {name: "PRODUCT_PRICE", value: price ? price.toFixed(2) : undefined},
        {name: "PRODUCT_IMAGE", value: product.image},
        {name: "PRODUCT_URL", value: product.url},
        {name: "EVENT_TYPE", value: .eventType}
      ];
      {
        recipient: {
          emailAddress: .email.trim().toLowerCase(),
          emailFormat: "HTML_FORMAT",
          listName: {folderName: "!MasterData", objectName: "CONTACTS_LIST"}
        },
        optionalData: pairs.filter(lambda ?0.value !== undefined)
      }
`

async function main() {
  const engine = await engines.WorkflowEngineFactory.createFromYaml(workflow, { rootPath: __dirname })
  beside(async (event) => (await engine.execute(event)).output)
}
main()
