/** Checks that toril sent a request: Standard Webhooks' symmetric signatures, which a worker's policy asks for. */

import { TorilError } from "./errors.js";

/** How old or new a request may be, in seconds. */
const TOLERANCE_S = 300;

/**
 * The keys in secrets: `whsec_` and 24 to 64 bytes in Base64.
 *
 * @throws RangeError without repeating them, when one is something else, or there is none
 */
export function readSecrets(secrets: readonly string[]): Uint8Array<ArrayBuffer>[] {
  if (secrets.length === 0) throw new RangeError("there must be a secret to verify with");
  return secrets.map((secret) => {
    const key = secret.startsWith("whsec_") ? fromBase64(secret.slice(6)) : undefined;
    if (!key || key.length < 24 || key.length > 64) throw new RangeError("a secret is whsec_ and 24 to 64 bytes in Base64");
    return key;
  });
}

/**
 * Check the signature over the body as it came, in constant time, and that the request is of now.
 *
 * @throws TorilError `unauthorized`, when it is not signed with one of the secrets, or not within five minutes
 */
export async function verify(body: ArrayBuffer, headers: Headers, secrets: readonly string[]): Promise<void> {
  const keys = readSecrets(secrets);
  const [message, at, signatures] = ["id", "timestamp", "signature"].map((name) => headers.get(`webhook-${name}`) ?? "");
  if (!message || !signatures || !/^[0-9]{1,12}$/.test(at!)) throw refused("the request is not signed");
  if (Math.abs(Date.now() / 1000 - Number(at)) > TOLERANCE_S) {
    throw refused("the request was signed more than five minutes from now");
  }
  const before = new TextEncoder().encode(`${message}.${at}.`);
  const signed = new Uint8Array(before.length + body.byteLength);
  signed.set(before);
  signed.set(new Uint8Array(body), before.length);
  const given = signatures.split(" ").flatMap((signature) => {
    const bytes = signature.startsWith("v1,") ? fromBase64(signature.slice(3)) : undefined;
    return bytes ? [bytes] : [];
  });
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  for (const raw of keys) {
    const key = await crypto.subtle.importKey("raw", raw, algorithm, false, ["verify"]);
    for (const signature of given) {
      if (await crypto.subtle.verify("HMAC", key, signature, signed)) return; // compares in constant time
    }
  }
  throw refused("the request's signature is wrong");
}

function refused(message: string): TorilError {
  return new TorilError(message, "unauthorized", 401);
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return undefined;
  }
}
