import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { PushedJob, pushHandler } from "toril-client";

// The vector that Standard Webhooks' own libraries are tested with.
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY = '{"test": 2432232314}';
const AT = 1614265330;
const VECTOR = {
  "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
  "webhook-timestamp": String(AT),
  "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
};
const SIGNATURE = VECTOR["webhook-signature"];
const OTHER = `whsec_${btoa("o".repeat(24))}`;
const URL = "http://127.0.0.1:9/";

const post = (body: string, headers: Record<string, string>): Request => new Request(URL, { method: "POST", body, headers });

/** What becomes of a request so many seconds after the vector's time: its error's code, message and status. */
async function reading(request: Request, secrets: string[], after = 0): Promise<string> {
  const now = Date.now;
  Date.now = () => (AT + after) * 1000;
  try {
    await PushedJob.from(request, URL, { secrets });
    return "taken";
  } catch (error) {
    const { code, status, message } = error as { code: string; status: number; message: string };
    return `${status} ${code}: ${message}`;
  } finally {
    Date.now = now;
  }
}

// The vector's body is no job: 400 says that its signature was taken.
const VERIFIED = "400 invalid_request: the request holds no pushed job";

test("the published vector is verified", async () => {
  for (const secrets of [[SECRET], [SECRET, OTHER], [OTHER, SECRET]]) {
    for (const after of [-300, 0, 300]) {
      for (const signature of [SIGNATURE, `v1,AAAA ${SIGNATURE}`, `v1,%%% ${SIGNATURE} v2,x`]) {
        const request = post(BODY, { ...VECTOR, "webhook-signature": signature });
        assert.equal(await reading(request, secrets, after), VERIFIED);
      }
    }
  }
});

test("what is not signed is refused", async () => {
  const cases: [Record<string, string>, RegExp][] = [
    [{ "webhook-id": "msg_other" }, /wrong/],
    [{ "webhook-timestamp": String(AT + 1) }, /wrong/],
    [{ "webhook-timestamp": String(AT - 301) }, /five minutes/],
    [{ "webhook-timestamp": String(AT + 301) }, /five minutes/],
    [{ "webhook-timestamp": `${AT}.0` }, /not signed/],
    [{ "webhook-timestamp": "" }, /not signed/],
    [{ "webhook-id": "" }, /not signed/],
    [{ "webhook-signature": "" }, /not signed/],
    [{ "webhook-signature": "v1," }, /wrong/],
    [{ "webhook-signature": SIGNATURE.slice(3) }, /wrong/],
    [{ "webhook-signature": SIGNATURE.replace("v1", "v2") }, /wrong/],
    [{ "webhook-signature": SIGNATURE.replace("g0", "g1") }, /wrong/],
  ];
  for (const [changed, fault] of cases) {
    const outcome = await reading(post(BODY, { ...VECTOR, ...changed }), [SECRET]);
    assert.match(outcome, /^401 unauthorized/);
    assert.match(outcome, fault);
  }
  assert.match(await reading(post(`${BODY} `, VECTOR), [SECRET]), /^401 .*wrong/);
  assert.match(await reading(post(BODY, VECTOR), [OTHER]), /^401 .*wrong/);
  assert.match(await reading(post(BODY, {}), [SECRET]), /^401 .*not signed/);
});

test("a handler with secrets works on what is signed, over the body as it came, and answers 401 to the rest", async () => {
  const job = { id: "7", name: "n", data: { text: "größe" }, queueQualifiedName: "bull:orders" };
  const body = `\ufeff ${JSON.stringify({ job, token: "t" })}\n`;
  const handle = pushHandler<{ text: string }>(URL, (pushed) => pushed.data.text, { secrets: [SECRET] });
  const sign = (at: number): Record<string, string> => {
    const key = Buffer.from(SECRET.slice(6), "base64");
    const signature = createHmac("sha256", key).update(`bull:orders:7@1.${at}.${body}`).digest("base64");
    return { "webhook-id": "bull:orders:7@1", "webhook-timestamp": String(at), "webhook-signature": `v1,${signature}` };
  };
  const now = Math.floor(Date.now() / 1000);
  const answer = await handle(post(body, sign(now)));
  assert.deepEqual([answer.status, await answer.json()], [200, "größe"]);
  for (const headers of [sign(now - 330), sign(now + 330), {}, { ...sign(now), "webhook-id": "x" }]) {
    assert.equal((await handle(post(body, headers))).status, 401);
  }
  const open = pushHandler<{ text: string }>(URL, (pushed) => pushed.data.text);
  assert.equal((await open(post(body, {}))).status, 200);
});

test("what is no secret is not taken", () => {
  for (const secrets of [[], [""], ["whsec_"], [SECRET.slice(6)], ["whsec_hunter2!"], [SECRET, `whsec_${"A".repeat(28)}`]]) {
    assert.throws(() => pushHandler(URL, () => 1, { secrets }), (error: Error) => {
      return error instanceof RangeError && /secret/.test(error.message) && !error.message.includes("hunter2");
    });
  }
});
