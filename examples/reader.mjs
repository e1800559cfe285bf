// Prints a stream of the shop as JSON lines, from its first event on, and live:
//
//     npm install zeromq@6
//     DATA_DIR=data node examples/reader.mjs orders
//
// It keeps its place in memory. One that acts on events keeps it with what it did, in one transaction.

import { readFileSync } from "node:fs";
import * as zmq from "zeromq";

const { DATA_DIR = "data", BROKER_CURVE = "on" } = process.env;
const { BROKER_PUBLISH_URL = "tcp://127.0.0.1:5559" } = process.env;
const { BROKER_SUBSCRIBE_URL = "tcp://127.0.0.1:5560" } = process.env;
const WANT_INTERVAL_MS = 500;
const stream = process.argv[2] ?? "orders";
const reader = `node-${process.pid}`; // answers go to this name: no other reader may have it

function key(file, kind) {
  const text = readFileSync(`${DATA_DIR}/keys/${file}`, "utf8");
  return text.match(new RegExp(`^ *${kind}-key *= *"(.{40})"`, "m"))[1];
}

const keys = BROKER_CURVE === "on" && {
  curveServerKey: key("broker.key", "public"),
  curvePublicKey: key("client.key_secret", "public"),
  curveSecretKey: key("client.key_secret", "secret"),
};
// Both connect: the forwarder has bound. Without a limit, a burst is not dropped here.
const publisher = new zmq.Publisher({ ...keys, linger: 0 });
const subscriber = new zmq.Subscriber({ ...keys, linger: 0, receiveHighWaterMark: 0 });
publisher.connect(BROKER_PUBLISH_URL);
subscriber.connect(BROKER_SUBSCRIBE_URL);
subscriber.subscribe(`event/${stream}/`, `replay/${reader}/`);

// A place is an epoch, of 16 bytes, and a number, of 8. Before the first event both are zeros.
let place = Buffer.alloc(24);

function number(of) {
  return of.readBigUInt64BE(16);
}

function move(from, by) {
  const to = Buffer.from(from);
  to.writeBigUInt64BE(number(from) + BigInt(by), 16);
  return to;
}

// Applies what of a run is above our place, if the run follows it, or begins below it.
function apply(follows, first, bodies) {
  bodies.forEach((body, index) => {
    const at = move(first, index);
    const before = index ? move(at, -1) : follows;
    if (at.compare(place) > 0 && before.equals(place)) {
      console.log(body.toString());
      place = at;
    }
  });
}

let wanted = place;

function want() {
  wanted = place;
  return publisher.send([`want/${stream}/`, reader, place.subarray(0, 16), place.subarray(16)]);
}

// What was sent while nobody heard leaves a gap, or nothing at all: so it asks over and over. The
// first time may be in vain, as a subscription takes a moment to get to the forwarder.
setInterval(want, WANT_INTERVAL_MS);

for await (const [topic, ...frames] of subscriber) {
  if (topic.toString() === `event/${stream}/`) {
    const first = Buffer.concat(frames.slice(0, 2));
    apply(move(first, -1), first, frames.slice(2));
  } else if (frames[0].toString() === stream) {
    const [follows, first] = [frames.slice(1, 3), frames.slice(3, 5)].map((f) => Buffer.concat(f));
    const bodies = frames.slice(5);
    apply(follows, first, bodies);
    // An answer ends with the journal's head, without a body: if it brought something, is there more?
    if (!bodies.length && place.compare(wanted) > 0 && first.compare(place) > 0) await want();
  }
}
