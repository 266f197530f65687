// For each line of its input, a URL: fetches it and prints the status and the
// body. All hosts are at 127.0.0.1; nothing else differs from an ordinary program.
import dns from "node:dns";
import readline from "node:readline";

dns.lookup = (host, options, done) =>
  options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

for await (const url of readline.createInterface({ input: process.stdin })) {
  try {
    const response = await fetch(url);
    console.log(response.status, await response.text());
  } catch (e) {
    console.log("failed:", (e.cause ?? e).code);
  }
}
