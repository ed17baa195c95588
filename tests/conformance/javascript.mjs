// What test_client_javascript.py lets the JavaScript client do: `node javascript.mjs CASE {"given": …}`.
// A case returns what the test looks at; it is printed as JSON.
import fs from "node:fs";
import Replicate, { parseProgressFromLogs, validateWebhook } from "replicate";

const HELLO = "vividcover/hello";
const baseUrl = `${process.env.REPLICATE_BASE_URL}/v1`; // with /v1, and there is no variable for it
const replicate = new Replicate({ baseUrl });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function refusal(asked) {
  try {
    await asked;
  } catch (error) {
    return { status: error.response?.status, message: error.message };
  }
  throw new Error("it was not refused");
}

async function bytes(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function trained(zip, destination) {
  const [owner, name, version] = process.env.TRAINER.split(/[/:]/);
  // a Buffer is not uploaded with a training: JSON makes {"type": "Buffer", "data": […]} of it
  const first = await replicate.trainings.create(owner, name, version, {
    destination,
    input: { input_images: fs.readFileSync(zip), trigger_word: "VIVI" },
  });
  const asPrediction = await replicate.wait(first); // it asks for /predictions/{id}, whatever it was given
  return { first, asPrediction, training: await replicate.trainings.get(first.id) };
}

const cases = {
  async run() {
    const version = (await replicate.models.get("vividcover", "hello")).latest_version.id;
    return [
      await replicate.run(HELLO, { input: { text: "Jo", repeat: 2 } }),
      await replicate.run(`${HELLO}:${version}`, { input: { text: "Jo" } }),
    ];
  },

  async outlasts() {
    const seen = [];
    const output = await replicate.run(
      HELLO,
      { input: { seconds: 2 }, wait: { mode: "block", timeout: 1 } },
      (run) => seen.push(run.status),
    );
    return { output, seen };
  },

  async polled() {
    const seen = [];
    const output = await replicate.run(
      HELLO,
      { input: { seconds: 2.2 }, wait: { mode: "poll", interval: 100 } },
      (run) => seen.push([run.status, parseProgressFromLogs(run)]),
    );
    return { output, seen };
  },

  async created() {
    const made = await replicate.predictions.create({ model: HELLO, input: { text: "Jo" } });
    const run = await replicate.wait(made, { interval: 50 });
    return { made, run };
  },

  async fails() {
    return [
      await refusal(replicate.run(HELLO, { input: { fail: true } })),
      await refusal(replicate.run(HELLO, { input: { repeat: "many" } })),
      await refusal(new Replicate({ baseUrl, auth: "r8_wrong" }).accounts.current()),
    ];
  },

  async canceled() {
    const made = await replicate.predictions.create({ model: HELLO, input: { seconds: 60 } });
    while ((await replicate.predictions.get(made.id)).status !== "processing") await sleep(50);
    const stopped = await replicate.predictions.cancel(made.id); // Content-Type: application/json, and no body
    return { stopped, run: await replicate.wait(stopped, { interval: 50 }) };
  },

  async given_up() {
    const giving = new AbortController();
    let id;
    const output = await replicate.run(
      HELLO,
      { input: { seconds: 60 }, wait: { mode: "poll", interval: 50 }, signal: giving.signal },
      (run) => {
        id = run.id;
        if (run.status === "processing") giving.abort();
      },
    ).catch((error) => error.name);
    return { id, output };
  },

  async large({ path }) {
    const input = { text: "large", attachment: await fs.openAsBlob(path) };
    return replicate.run(HELLO, { input });
  },

  async files({ path }) {
    const content = fs.readFileSync(path);
    const bare = await replicate.files.create(content);
    const named = await replicate.files.create(new File([content], "mine.zip", { type: "application/zip" }), {
      album: "first",
    });
    const got = await replicate.files.get(named.id);
    const listed = (await replicate.files.list()).results.map((file) => file.id);
    const deleted = await replicate.files.delete(named.id);
    return { bare, named, got, listed, deleted, after: await refusal(replicate.files.get(named.id)) };
  },

  async trained({ zip }) {
    const { first, asPrediction, training } = await trained(zip, "jo/portraits");
    const input = { ...JSON.parse(process.env.SMALL), seed: 7 };
    const pictures = [];
    for (const reference of [training.output.version, `jo/portraits:${training.output.version}`, "jo/portraits"]) {
      const [picture] = await replicate.run(reference, { input });
      pictures.push({
        kind: picture.constructor.name,
        link: picture.url().href,
        text: String(picture),
        content: (await bytes(picture)).toString("base64"),
      });
    }
    const [file] = await replicate.run("jo/portraits", { input });
    const blob = await file.blob();
    const plain = new Replicate({ baseUrl, useFileOutput: false });
    return {
      first,
      asPrediction,
      training,
      pictures,
      blob: { type: blob.type, size: blob.size },
      plain: await plain.run("jo/portraits", { input }),
      listed: (await replicate.trainings.list()).results.map((one) => one.id),
    };
  },

  async never({ zip }) {
    const busy = await replicate.predictions.create({ model: HELLO, input: { seconds: 60 } });
    const [owner, name, version] = process.env.TRAINER.split(/[/:]/);
    const made = await replicate.trainings.create(owner, name, version, {
      destination: "jo/never",
      input: { input_images: fs.readFileSync(zip) },
    });
    const stopped = await replicate.trainings.cancel(made.id);
    await replicate.wait(await replicate.predictions.cancel(busy.id), { interval: 50 });
    return stopped;
  },

  async without_auth({ zip }) {
    // which of the client's requests had a token
    await trained(zip, "jo/portraits");
    const asked = [];
    const watching = new Replicate({
      baseUrl,
      fetch: (url, init) => {
        const place = new URL(url).pathname.match(/^\/(v1\/)?\w+/)[0];
        asked.push([place, Boolean(init?.headers?.Authorization)]);
        return fetch(url, init);
      },
    });
    const [picture] = await watching.run("jo/portraits", { input: JSON.parse(process.env.SMALL) });
    await bytes(picture);
    let last;
    for await (const event of watching.stream(HELLO, { input: {} })) last = event.event;
    return [...asked, last];
  },

  async streamed() {
    const heard = [];
    const input = { text: "one\ntwo\n\nthree", repeat: 2, seconds: 0.1 };
    for await (const event of replicate.stream(HELLO, { input })) heard.push({ ...event, text: String(event) });
    return heard;
  },

  async streamed_failure() {
    const heard = [];
    try {
      for await (const event of replicate.stream(HELLO, { input: { fail: true } })) heard.push(event.event);
    } catch (error) {
      return { heard, message: error.message };
    }
    throw new Error("it did not fail");
  },

  async pages() {
    const ids = [];
    for await (const page of replicate.paginate(replicate.predictions.list)) ids.push(page.map((run) => run.id));
    const models = [];
    for await (const page of replicate.paginate(replicate.models.list)) {
      models.push(...page.map((model) => `${model.owner}/${model.name}`));
    }
    return { ids, models };
  },

  async search() {
    const found = await replicate.models.search("voice cloning");
    return found.results.map((model) => `${model.owner}/${model.name}`);
  },

  async made() {
    const made = await replicate.models.create("jo", "empty", { visibility: "private", description: "Nothing yet." });
    const versions = await replicate.models.versions.list("vividcover", "hello");
    const [version] = versions.results;
    return {
      made,
      got: await replicate.models.get("jo", "empty"),
      same: (await replicate.models.versions.get("vividcover", "hello", version.id)).id === version.id,
    };
  },

  async webhook({ url }) {
    const { key } = await replicate.webhooks.default.secret.get();
    const made = await replicate.predictions.create({
      model: HELLO,
      input: { repeat: 2 },
      webhook: url,
      webhook_events_filter: ["completed"],
    });
    return { key, id: made.id };
  },

  async validate({ headers, body, secret }) {
    return [
      await validateWebhook({ headers, body }, secret),
      await validateWebhook({ headers, body: `${body} ` }, secret),
      await validateWebhook({
        id: headers["webhook-id"],
        timestamp: headers["webhook-timestamp"],
        signature: headers["webhook-signature"],
        body,
        secret,
      }),
    ];
  },

  async leaking() {
    // with this strategy the client sends itself, token and all, where the input should be
    const sent = [];
    const leaking = new Replicate({
      baseUrl,
      fileEncodingStrategy: "data-uri",
      fetch: (url, init) => {
        sent.push(JSON.parse(init.body));
        return fetch(url, init);
      },
    });
    const output = await leaking.run(HELLO, { input: { text: "never arrives" } });
    return { output, leaked: sent[0].input.auth };
  },

  async fallback({ path }) {
    // an upload that fails for the server's reasons: the file comes inside the request
    const failing = new Replicate({
      baseUrl,
      fetch: (url, init) =>
        String(url).endsWith("/files") ? Promise.resolve(new Response("", { status: 503 })) : fetch(url, init),
    });
    const made = await failing.predictions.create({
      model: "zsxkib/create-rvc-dataset",
      input: { youtube_url: new Blob([fs.readFileSync(path)]) },
    });
    await replicate.predictions.cancel(made.id);
    return made.input.youtube_url;
  },

  async throttled() {
    let asked = 0;
    const counting = new Replicate({
      baseUrl,
      fetch: (url, init) => {
        asked += 1;
        return fetch(url, init);
      },
    });
    return { ...(await refusal(counting.run(HELLO, { input: {} }))), asked };
  },

  async plain({ zip }) {
    const input = { youtube_url: new Blob([fs.readFileSync(zip)]), audio_name: "jo" };
    const output = await replicate.run("zsxkib/create-rvc-dataset", { input });
    const heard = [];
    for await (const event of replicate.stream(HELLO, { input: {} })) heard.push(event.event);
    return { output, heard };
  },

  async others() {
    const { latest_version: version } = await replicate.models.get("vividcover", "hello");
    const hardware = await replicate.hardware.list();
    const made = await replicate.deployments.create({
      name: "js-greeter",
      model: HELLO,
      version: version.id,
      hardware: hardware[0].sku,
      min_instances: 0,
      max_instances: 1,
    });
    const run = await replicate.wait(
      await replicate.deployments.predictions.create(made.owner, made.name, { input: { text: "Deb" } }),
      { interval: 50 },
    );
    const changed = await replicate.deployments.update(made.owner, made.name, { max_instances: 2 });
    const got = await replicate.deployments.get(made.owner, made.name);
    const listed = (await replicate.deployments.list()).results.map((one) => one.name);
    const collections = (await replicate.collections.list()).results;
    for (const { slug } of collections) await replicate.collections.get(slug);
    return {
      account: await replicate.accounts.current(),
      hardware,
      made,
      output: run.output,
      changed,
      got,
      listed,
      deleted: await replicate.deployments.delete(made.owner, made.name),
    };
  },
};

const [name, given] = process.argv.slice(2);
console.log(JSON.stringify((await cases[name](JSON.parse(given))) ?? null));
