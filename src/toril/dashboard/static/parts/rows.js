/** Rows that the keyboard walks: J and K move, X selects, Enter opens. */
import { useEffect, useRef, useState } from "preact/hooks";
import { isTyping } from "../lib/keyboard.js";

/**
 * @param {{ count: number, open?: (index: number) => void, select?: (index: number, range: boolean) => void }} what
 * @returns {number} the row under the keyboard's cursor, -1 for none
 */
export function useRows({ count, open, select }) {
  const [at, setAt] = useState(-1);
  const now = useRef(-1); // also between a key and the next drawing
  useEffect(() => {
    const pressed = (/** @type {KeyboardEvent} */ event) => {
      if (isTyping(event) || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
      const key = event.key.toLowerCase();
      if (key === "j" || key === "k") {
        event.preventDefault();
        now.current = Math.max(0, Math.min(count - 1, now.current + (key === "j" ? 1 : -1)));
        setAt(now.current);
        const row = now.current;
        requestAnimationFrame(() => document.querySelector(`[data-row="${row}"]`)?.scrollIntoView({ block: "nearest" }));
        return;
      }
      const row = now.current;
      if (row < 0 || row >= count) return;
      if (key === "x" && select) {
        event.preventDefault();
        select(row, event.shiftKey);
      } else if (event.key === "Enter" && open && !(event.target instanceof Element && event.target.closest("a, button, summary"))) {
        open(row);
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [count, open, select]);
  return at < count ? at : -1;
}
