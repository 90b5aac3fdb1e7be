// Prints one line for each result of a NATS queue, until the run ends.
//
//     npm install
//     node consumer.mjs nats://127.0.0.1:4222/NAME perception_result.proto
//
// PERCEPTION_QUEUE_USER and PERCEPTION_QUEUE_PASSWORD log in. Where the server asks for TLS, NODE_EXTRA_CA_CERTS names the
// authority (PEM) that signed its certificate, which must be for a name: this client knows no certificates for addresses.
import { connect } from "nats";
import protobuf from "protobufjs";

const RETRY_MS = 200;
const SCHEMA = 1;

process.on("uncaughtException", (error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});

const [url, schemaFile] = process.argv.slice(2);
if (!url || !schemaFile) {
  console.error("usage: node consumer.mjs nats://HOST:PORT/NAME SCHEMA.proto");
  process.exit(2);
}
const { host, pathname } = new URL(url);
const stream = pathname.slice(1);

// keepCase: the fields are called what the JSON form calls them.
const root = await new protobuf.Root().load(schemaFile, { keepCase: true });
const QueueItem = root.lookupType("perception.v1.QueueItem");

const connection = await connect({
  servers: host,
  user: process.env.PERCEPTION_QUEUE_USER,
  pass: process.env.PERCEPTION_QUEUE_PASSWORD,
});
// An ordered consumer: everything that the stream holds, in order, and what follows; again from there after a break.
const consumer = await found(() => connection.jetstream().consumers.get(stream));
const expected = new Map();
let malformed = 0;
for await (const message of await consumer.consume()) {
  const item = decode(message.data);
  if (item === null) {
    malformed += 1;
  } else if (item.item === "end_of_run") {
    console.log(`end of run ${item.end_of_run.run_id}: ${item.end_of_run.count} results, ${item.end_of_run.reason}`);
    break;
  } else if (isNew(item.result)) {
    console.log(describe(item.result));
  }
}
if (malformed > 0) console.error(`${malformed} messages were no results`);
await connection.close();

// What was published twice, because a producer did not hear that it had arrived, comes twice; a result counts once.
function isNew(result) {
  const run = `${result.drive_id}/${result.run_id}`;
  const sequence = integer(result.sequence);
  if (sequence < (expected.get(run) ?? 0n)) return false;
  expected.set(run, sequence + 1n);
  return true;
}

function decode(payload) {
  try {
    const item = QueueItem.decode(payload);
    return item.schema === SCHEMA && item.item ? item : null;
  } catch {
    return null;
  }
}

function describe(result) {
  const tracked = result.detections.filter((detection) => detection._track_id === "track_id");
  const best = result.path_hints[0]?.waypoints_m.at(-1) ?? { x: 0, y: 0 };
  return (
    `${result.drive_id} #${integer(result.sequence)} at ${integer(result.reference_ns)}: ` +
    `${result.detections.length} detections, ${tracked.length} tracked; ` +
    `best path ends at (${best.x.toFixed(1)}, ${best.y.toFixed(1)}) m`
  );
}

// Nanoseconds since 1970 do not fit a number of JavaScript (2^53): 64-bit fields come as Long, small ones as number.
function integer(value) {
  return BigInt(value.toString());
}

// A consumer may come before the producer, who makes the stream.
async function found(get) {
  for (;;) {
    try {
      return await get();
    } catch (error) {
      if (error.api_error?.code !== 404) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
