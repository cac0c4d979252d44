// An HTTP server over IPv4, another over IPv6, timers and a heap that is collected.
const http = require('http');
let count = 0, ticks = 0, heap = [];
setInterval(() => { ticks++; }, 5);
const handler = (req, res) => {
  count++;
  for (let i = 0; i < 2000; i++) heap.push({ i, s: 'x' + i });
  if (heap.length > 20000) heap = [];
  require('crypto').randomBytes(16, () => res.end(`${count} ${ticks > 0}`)); // by way of the thread pool
};
for (let i = 0; i < 4; i++) require('fs').stat('/', () => {});
http.createServer(handler).listen(8081, '::', () => http.createServer(handler).listen(8080, '0.0.0.0', () => console.log('ready')));
