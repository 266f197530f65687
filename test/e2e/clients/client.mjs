// For each line of its input, `kept|new user n url`: asks n times as the user,
// over kept connections or each over a new one, and prints each answer's status
// and type.
import readline from "node:readline";

async function ask(connections, user, url) {
  const headers = { "X-User-ID": user };
  if (connections === "new") headers.connection = "close";
  try {
    const response = await fetch(url, { headers });
    await response.arrayBuffer();
    return `${response.status}:${response.headers.get("content-type")}`;
  } catch (e) {
    console.error(e.cause ?? e);
    return "failed";
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [connections, user, n, url] = line.split(" ");
  const answers = [];
  while (answers.length < Number(n)) answers.push(await ask(connections, user, url));
  console.log(answers.join(" "));
}
