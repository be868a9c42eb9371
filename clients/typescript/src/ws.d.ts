/** What is used of the package `ws`, which is only looked for where there is no `WebSocket`. */
declare module "ws" {
  export const WebSocket: new (url: string, protocols: string[]) => import("./sockets.js").Socket;
}
