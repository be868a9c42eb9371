/**
 * Opens WebSockets: the platform's own, or, in Node before 22, those of the package `ws`.
 *
 * The token goes into a subprotocol, because scripts in browsers cannot set headers.
 */

import { TorilError } from "./errors.js";

const OPENING_MS = 10_000;

/** What is used of a WebSocket. */
export interface Socket {
  addEventListener(type: "open" | "error", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { readonly code: number; readonly reason: string }) => void): void;
  send(text: string): void;
  close(): void;
}

/**
 * Open a socket. `opened` is called before anything that comes over it can get lost; its result is this one's.
 *
 * @throws TorilError `unreachable`, also when the server refuses: a browser does not tell why
 */
export async function openSocket<T>(
  url: string, token: string, signal: AbortSignal, opened: (socket: Socket) => T,
): Promise<T> {
  const SocketClass = await platformSocket();
  signal.throwIfAborted();
  const socket = new SocketClass(url, ["toril", `toril.bearer.${base64url(token)}`]);
  return new Promise((resolve, reject) => {
    let settled = false;
    const settle = (): boolean => {
      clearTimeout(timer);
      signal.removeEventListener("abort", aborted);
      return settled !== (settled = true);
    };
    const give = (error: Error): void => {
      if (!settle()) return;
      socket.close();
      reject(error);
    };
    const failed = (): void => give(new TorilError("no WebSocket could be opened", "unreachable"));
    const aborted = (): void => give(signal.reason as Error);
    const timer = setTimeout(failed, OPENING_MS);
    signal.addEventListener("abort", aborted);
    socket.addEventListener("error", failed);
    socket.addEventListener("close", failed);
    socket.addEventListener("open", () => {
      if (settle()) resolve(opened(socket));
    });
  });
}

async function platformSocket(): Promise<new (url: string, protocols: string[]) => Socket> {
  if (typeof globalThis.WebSocket === "function") return globalThis.WebSocket;
  try {
    return (await import("ws")).WebSocket;
  } catch (cause) {
    throw new Error("there is no WebSocket here: install the package ws, or run Node 22 or newer", { cause });
  }
}

function base64url(text: string): string {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
