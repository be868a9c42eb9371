// node-postgres in transactions of its own: `node sql.mjs <postgresql url>` runs the steps on its input, one JSON a line:
// {sql, values} prints {rows}, or what was wrong as {error: {message, detail, column}}.
import { createInterface } from 'node:readline';

import pg from 'pg';

const client = new pg.Client({ connectionString: process.argv[2] });
await client.connect();
for await (const line of createInterface({ input: process.stdin })) {
  const { sql, values } = JSON.parse(line);
  try {
    const { rows } = await client.query(sql, values);
    console.log(JSON.stringify({ rows }));
  } catch ({ message, detail, column }) {
    console.log(JSON.stringify({ error: { message, detail, column } }));
  }
}
await client.end();
