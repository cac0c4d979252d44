// Gives an instance that was woken random numbers of its own: NODE_OPTIONS=--require=/reseed/node/reseed.js
//
// All instances of a seed wake with the same memory: with the state of V8's Math.random, of OpenSSL's generator, and with the numbers that node:crypto has put aside.
// Loaded when the app boots, this file has Math.random, randomBytes, randomFill, randomInt, randomUUID and the web's crypto.getRandomValues and randomUUID draw from the
// kernel. What Math.random has put aside is dropped at the signal that a seed baked with --after-wake signal=URG sends; the others put nothing aside.
//
// Not reached: what OpenSSL draws by itself, for keys that it generates and for TLS.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const {syncBuiltinESMExports} = require('node:module');

const kernel = fs.openSync('/dev/urandom', 'r');

function fill(bytes) {
  for (let done = 0; done < bytes.length;) done += fs.readSync(kernel, bytes, done, bytes.length - done, null);
  return bytes;
}

// region is the part of a buffer that randomFill's offset and size, counted in elements, mean.
function region(buffer, offset = 0, size) {
  const unit = buffer.BYTES_PER_ELEMENT || 1;
  const start = offset * unit;
  const length = size === undefined ? buffer.byteLength - start : size * unit;
  return ArrayBuffer.isView(buffer) ? new Uint8Array(buffer.buffer, buffer.byteOffset + start, length) : new Uint8Array(buffer, start, length);
}

// uniform is a number from 0 to range - 1, range being at most 2^48: draws beyond the last whole multiple of range are thrown away.
function uniform(range) {
  const limit = 2 ** 48 - (2 ** 48 % range);
  for (;;) {
    const drawn = fill(Buffer.alloc(6)).readUIntBE(0, 6);
    if (drawn < limit) return drawn % range;
  }
}

// Each calls the original first, which says what is wrong with the arguments.
const {randomBytes, randomFill, randomFillSync, randomInt, randomUUID} = crypto;

crypto.randomBytes = function (size, callback) {
  if (callback === undefined) return fill(randomBytes(size));
  return randomBytes(size, (err, bytes) => callback(err, err ? bytes : fill(bytes)));
};

crypto.randomFillSync = function (buffer, offset, size) {
  randomFillSync(buffer, offset, size);
  fill(region(buffer, offset, size));
  return buffer;
};

crypto.randomFill = function (buffer, ...rest) {
  const callback = rest.pop();
  if (typeof callback !== 'function') return randomFill(buffer, ...rest, callback);
  return randomFill(buffer, ...rest, (err) => {
    if (!err) fill(region(buffer, ...rest));
    callback(err, buffer);
  });
};

crypto.randomInt = function (min, max, callback) {
  if (max === undefined || typeof max === 'function') [min, max, callback] = [0, min, max];
  if (callback !== undefined) return randomInt(min, max, (err, n) => callback(err, err ? n : min + uniform(max - min)));
  randomInt(min, max);
  return min + uniform(max - min);
};

crypto.randomUUID = function (options) {
  randomUUID(options);
  const bytes = fill(Buffer.alloc(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40; // version 4
  bytes[8] = (bytes[8] & 0x3f) | 0x80; // variant 1
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
};

const web = Object.getPrototypeOf(crypto.webcrypto);
const {getRandomValues} = web;
web.getRandomValues = function (array) {
  getRandomValues.call(this, array);
  fill(region(array));
  return array;
};
web.randomUUID = function () {
  return crypto.randomUUID();
};
syncBuiltinESMExports();

// Math.random draws from a store of the kernel's bytes: asking for each number would cost microseconds.
const store = new Float64Array(512);
let left = 0;
Math.random = function random() {
  if (left === 0) {
    const words = new Uint32Array(fill(Buffer.alloc(store.length * 8)).buffer.slice(0, store.length * 8));
    for (let i = 0; i < store.length; i++) store[i] = ((words[2 * i] >>> 5) * 2 ** 26 + (words[2 * i + 1] >>> 6)) / 2 ** 53;
    left = store.length;
  }
  return store[--left];
};

process.on('SIGURG', () => {
  left = 0;
});
