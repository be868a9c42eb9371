/** `html` makes Preact elements of a template. */
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
