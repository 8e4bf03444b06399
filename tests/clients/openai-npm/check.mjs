// The calls of the openai package for JavaScript, against what the engine itself says; run by `run.py`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const expected = JSON.parse(readFileSync(process.env.CHECK_EXPECTED, "utf8"));
const model = process.env.CHECK_MODEL;
const greedy = { model, max_tokens: expected.max_tokens, temperature: 0 };
const messages = expected.chat.messages;
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });

await checkModels();
await checkCompletions();
await checkEcho();
await checkCompletionStream();
await checkChat();
await checkChatStream();
await checkStructured();
await checkManyAtOnce();
await checkErrors();
await checkRateLimit(process.env.CHECK_LIMITED_KEY);

async function checkModels() {
  const found = [];
  for await (const each of await client.models.list()) found.push(each);
  assert.deepEqual(found.map((each) => each.id), [model]);
  assert.equal((await client.models.retrieve(model)).max_model_len, 2048);
}

async function checkCompletions() {
  const first = expected.prompts[0];
  const reply = await client.completions.create({ ...greedy, prompt: first.text });
  assert.equal(reply.choices.length, 1);
  assert.equal(reply.choices[0].text, first.answer);
  assert.equal(reply.choices[0].finish_reason, "length");
  assert.equal(reply.usage.prompt_tokens, first.token_ids.length);
  assert.equal(reply.usage.completion_tokens, expected.max_tokens);
  assert.ok(reply._request_id, "X-Request-Id is not there");
  for (const field of ["text", "token_ids"]) {
    const several = await client.completions.create({ ...greedy, prompt: expected.prompts.map((each) => each[field]) });
    assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.deepEqual(several.choices.map((choice) => choice.text), expected.prompts.map((each) => each.answer));
  }
}

async function checkEcho() {
  for (const each of expected.prompts) {
    const reply = await client.completions.create({ ...greedy, prompt: each.text, echo: true, logprobs: 2 });
    const { text, logprobs } = reply.choices[0];
    assert.equal(text, each.text + each.answer);
    assert.equal(logprobs.tokens.join(""), text);
    assert.deepEqual(logprobs.token_logprobs, [...each.token_logprobs, ...each.answer_logprobs]);
    logprobs.tokens.forEach((token, i) => {
      const at = logprobs.text_offset[i];
      assert.equal(text.slice(at, at + token.length), token);
    });
  }
}

async function checkCompletionStream() {
  const each = expected.prompts[1];
  const body = { ...greedy, prompt: each.text, stream: true, stream_options: { include_usage: true } };
  const events = [];
  for await (const event of await client.completions.create(body)) events.push(event);
  const last = events.pop();
  assert.equal(events.flatMap((event) => event.choices.map((choice) => choice.text)).join(""), each.answer);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, expected.max_tokens);
}

async function checkChat() {
  const reply = await client.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 2 });
  const [choice] = reply.choices;
  assert.equal(choice.message.role, "assistant");
  assert.equal(choice.message.content, expected.chat.answer);
  assert.equal(choice.finish_reason, expected.chat.finish_reason);
  assert.equal(reply.usage.prompt_tokens, expected.chat.prompt_tokens);
  assert.equal(choice.logprobs.content.map((entry) => entry.token).join(""), expected.chat.answer);
  for (const entry of choice.logprobs.content) {
    assert.equal(entry.top_logprobs.length, 2);
    assert.deepEqual(entry.top_logprobs[0].token, entry.token);
  }
  const again = await client.chat.completions.create({ ...greedy, messages });
  assert.ok(again.usage.prompt_tokens_details.cached_tokens > 0, "the same prompt was there before");
}

async function checkChatStream() {
  const body = { ...greedy, messages, stream: true, stream_options: { include_usage: true } };
  const events = [];
  for await (const event of await client.chat.completions.create(body)) events.push(event);
  const last = events.pop();
  assert.equal(events[0].choices[0].delta.role, "assistant");
  const choices = events.flatMap((event) => event.choices);
  assert.equal(choices.map((choice) => choice.delta.content ?? "").join(""), expected.chat.answer);
  const ends = choices.map((choice) => choice.finish_reason).filter((reason) => reason);
  assert.deepEqual(ends, [expected.chat.finish_reason]);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.prompt_tokens, expected.chat.prompt_tokens);
  // the package's own gathering of a stream
  const gathered = await client.chat.completions.stream({ ...greedy, messages }).finalChatCompletion();
  assert.equal(gathered.choices[0].message.content, expected.chat.answer);
}

async function checkStructured() {
  const { schema, json } = expected.structured;
  const format = { type: "json_schema", json_schema: { name: "order", schema, strict: true } };
  const asked = { model, temperature: 0, messages, response_format: format };
  const reply = await client.chat.completions.parse(asked);
  assert.equal(reply.choices[0].message.content, json);
  assert.equal(reply.choices[0].finish_reason, "stop");
  const whole = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(whole.choices[0].message.content, json);
}

async function checkManyAtOnce() {
  const cases = Array.from({ length: 12 }, (_, i) => expected.prompts[i % 3]);
  const texts = await Promise.all(cases.map(async (each) => {
    let text = "";
    const stream = await client.completions.create({ ...greedy, prompt: each.text, stream: true });
    for await (const event of stream) text += event.choices[0].text;
    return text;
  }));
  assert.deepEqual(texts, cases.map((each) => each.answer));
}

async function checkErrors() {
  const cases = [
    // the exception, its code, its param, what is asked for
    [OpenAI.NotFoundError, "model_not_found", null, { model: "another" }],
    [OpenAI.BadRequestError, null, "temperature", { temperature: -1 }],
    [OpenAI.BadRequestError, null, "max_token", { max_token: 1 }],
    [OpenAI.BadRequestError, "context_length_exceeded", null, { prompt: Array(2048).fill(5) }],
    [OpenAI.BadRequestError, null, "suffix", { suffix: "x" }],
    [OpenAI.BadRequestError, null, "temperature", { temperature: -1, stream: true }],
  ];
  for (const [kind, code, param, fields] of cases) {
    const error = await errorOf(client, fields);
    assert.ok(error instanceof kind, `${JSON.stringify(fields).slice(0, 80)}: ${error}`);
    assert.deepEqual([error.code, error.param], [code, param]);
    assert.ok(error.requestID);
  }
  const stranger = await errorOf(client.withOptions({ apiKey: "sk-nobody-has-this-key" }));
  assert.ok(stranger instanceof OpenAI.AuthenticationError);
  assert.equal(stranger.code, "invalid_api_key");
  await assert.rejects(client.models.retrieve("another"), OpenAI.NotFoundError);
}

async function errorOf(asked, fields = {}) {
  try {
    await asked.completions.create({ ...greedy, prompt: "a", ...fields });
  } catch (error) {
    return error;
  }
  return assert.fail(`${JSON.stringify(fields)} were taken`);
}

// The key's rate is used up; then the client waits as long as it is told to, and is served.
async function checkRateLimit(apiKey) {
  const body = { model, prompt: "a", max_tokens: 1 };
  const impatient = client.withOptions({ apiKey });
  let refused = null;
  for (let i = 0; i < 60 && refused === null; i++) {
    await impatient.completions.create(body).catch((error) => { refused = error; });
  }
  assert.ok(refused instanceof OpenAI.RateLimitError, `${refused}`);
  const seconds = Number(refused.headers.get("retry-after"));
  assert.ok(seconds >= 1 && seconds <= 5, `${seconds}`);
  const began = performance.now();
  const reply = await client.withOptions({ apiKey, maxRetries: 1 }).completions.create(body);
  assert.equal(reply.choices[0].finish_reason, "length");
  // without Retry-After it tries again after less than a second, and is refused
  assert.ok(performance.now() - began > (seconds - 1.5) * 1000);
}
