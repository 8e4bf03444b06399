// Server-sent events out of a fetch response, as they come.

/** Takes text in any pieces and gives the data of the events that are whole. Comments and other fields are passed over. */
export class EventParser {
  #line = "";
  #data = [];

  push(text) {
    const events = [];
    const lines = (this.#line + text).split(/\r\n|\n|\r(?!$)/); // a \r at the very end may be half of \r\n
    this.#line = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}

/** The data of each event. Leaving the loop early closes the connection. */
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder(); // a character may be cut between two pieces
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
