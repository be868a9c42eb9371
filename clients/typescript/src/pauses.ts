/** Waiting before the next try. */

/** How long to pause after so many failures in a row: `shortestMs`, doubling up to `longestMs`, with jitter. */
export function pauseMs(failures: number, shortestMs: number, longestMs: number): number {
  return Math.min(shortestMs * 2 ** failures, longestMs) * (0.5 + Math.random() / 2);
}

/** Resolves after so many milliseconds, or at once when the signal is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}
