/** JSON texts. */

/** A value as JSON; nothing is `null`. Throws a TypeError where there is none: a function, a BigInt, a circle. */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value ?? null) as string | undefined;
  if (text === undefined) throw new TypeError(`a ${typeof value} is no JSON`);
  return text;
}

/** What a JSON text says; its shape is the server's word. */
export function fromJson<T>(text: string): T {
  return JSON.parse(text) as T;
}
