/** Server-Sent Events, read by hand: a browser's `EventSource` cannot send a token in a header. */

/** What stood between two empty lines. Without `data` it is no event, but its `id` still counts. */
export interface Block {
  readonly id?: string;
  readonly event?: string;
  readonly data?: string;
}

/** Puts pieces of text together to blocks, wherever they were cut. By the rules of the WHATWG's HTML, section 9.2.6. */
export class BlockReader {
  #rest = "";
  #fields = new Map<string, string>();

  /** The blocks that this piece completes. */
  push(piece: string): Block[] {
    const text = this.#rest + piece;
    // A carriage return at the very end may be half of a line's end.
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    const blocks: Block[] = [];
    for (const line of lines) {
      if (line !== "") {
        this.#take(line);
      } else if (this.#fields.size > 0) {
        blocks.push(Object.fromEntries(this.#fields));
        this.#fields = new Map();
      }
    }
    return blocks;
  }

  #take(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    const before = name === "data" ? this.#fields.get(name) : undefined;
    this.#fields.set(name, before === undefined ? value : `${before}\n${value}`);
  }
}

/**
 * The blocks of a response's body.
 *
 * @param heard is called whenever something came, if only a comment.
 */
export async function* blocks(body: ReadableStream<Uint8Array>, heard: () => void): AsyncGenerator<Block, void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const pieces = new BlockReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    yield* pieces.push(decoder.decode(value, { stream: true }));
  }
}
