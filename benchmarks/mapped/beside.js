// What benchmarks/measuring.py's Beside talks to: results first, then for each line one round over all events.
const fs = require('fs')
const readline = require('readline')

exports.beside = async (map) => {
  const events = JSON.parse(fs.readFileSync(process.argv[2], "utf8").split("\n")[0])
  const results = []
  for (const event of events) results.push(await map(event))
  console.log(JSON.stringify(results))
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    const began = process.cpuUsage()
    let count = 0
    let took
    do {
      for (const event of events) {
        const made = map(event)
        if (made instanceof Promise) await made
      }
      count += events.length
      took = process.cpuUsage(began)
    } while (took.user + took.system < 200000)
    console.log(JSON.stringify({ count, seconds: (took.user + took.system) / 1e6 }))
  }
}
