// A catalogue held in memory, served on :8080.
'use strict';

const crypto = require('node:crypto');
const http = require('node:http');

const catalogue = new Map();
for (let id = 0; id < 100_000; id++) {
  catalogue.set(`item-${id}`, {id, title: `Item ${id}`, price: (id * 7919) % 10_000, tags: [`tag-${id % 97}`, `shop-${id % 50}`]});
}

function cheapest(tag) {
  const found = [];
  for (const item of catalogue.values()) {
    if (item.tags.includes(tag)) found.push(item);
  }
  return found.sort((a, b) => a.price - b.price).slice(0, 5);
}

const endpoints = {
  '/': (query) => JSON.stringify(cheapest(query.get('tag') ?? 'tag-1')),
  // One draw from every source of randomness that a clone could share with its siblings.
  '/random': () => JSON.stringify({
    random: Math.random(),
    uuid: crypto.randomUUID(),
    bytes: crypto.randomBytes(16).toString('hex'),
  }),
  '/pid': () => String(process.pid),
  '/exit': (query) => process.exit(Number(query.get('code'))),
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  const endpoint = endpoints[url.pathname];
  response.statusCode = endpoint ? 200 : 404;
  response.end(endpoint ? endpoint(url.searchParams) : 'not found\n');
});

process.on('SIGTERM', () => process.exit(0));
server.listen(8080, () => console.log('ready'));
