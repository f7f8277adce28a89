// Answers with the target; notes what it saw, a line each. `node node.js SOCKET REPORTS`
const http = require('http')
const fs = require('fs')
const [socket, reports] = process.argv.slice(2)
const lenient = { insecureHTTPParser: true, requireHostHeader: false, keepAliveTimeout: 75000, requestTimeout: 0, headersTimeout: 0 }
http.createServer(lenient, (request, response) => {
  const fields = []
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    fields.push([request.rawHeaders[at].toLowerCase(), request.rawHeaders[at + 1]])
  }
  fs.appendFileSync(reports, JSON.stringify({ id: request.headers['x-request-id'] || '', fields }) + '\n')
  request.resume()
  request.on('end', () => {
    response.setHeader('x-program', 'node')
    response.end(request.method === 'HEAD' ? undefined : request.url)
  })
  request.on('error', () => response.destroy())
}).listen(socket)
