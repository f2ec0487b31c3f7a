// What the scripts of this folder share: settings from the environment, people with
// keys, and thresholds. It runs on k6 (https://k6.io) alone, without other modules.
import http from "k6/http";
import { check, fail } from "k6";

const env = (name, otherwise) => __ENV[name] || otherwise;

// Where to, and how much; the README has all of them.
export const base = env("BASE_URL", "http://127.0.0.1:8080").replace(/\/+$/, "");
const rate = (otherwise) => Number(env("RATE", otherwise));
const duration = env("DURATION", "1m");
const people = Number(env("PEOPLE", "8"));
const password = env("PASSWORD", "correct horse battery staple");

// options of a script: requests come at a constant rate, whatever became of those
// before them, and the run fails when they take too long or one of them is wrong.
// bounds are milliseconds.
export function options(defaultRate, bounds = { p95: env("P95", "50"), p99: env("P99", "100") }) {
  return {
    scenarios: {
      load: {
        executor: "constant-arrival-rate",
        rate: rate(defaultRate),
        timeUnit: "1s",
        duration: duration,
        preAllocatedVUs: Number(env("VUS", "64")),
        maxVUs: Number(env("MAX_VUS", "512")),
      },
    },
    thresholds: {
      // Requests of setup have no scenario.
      "http_req_duration{scenario:load}": [`p(95)<${bounds.p95}`, `p(99)<${bounds.p99}`],
      "checks{scenario:load}": ["rate==1"],
      dropped_iterations: ["count==0"],
    },
    summaryTrendStats: ["avg", "min", "med", "p(95)", "p(99)", "max"],
    discardResponseBodies: false,
    insecureSkipTLSVerify: env("INSECURE", "") === "true",
  };
}

const json = { "Content-Type": "application/json" };

export const asKey = (person) => ({ headers: { "X-API-Key": person.key } });
export const asSession = (person) => ({ headers: { Authorization: `Bearer ${person.token}` } });
export const withBody = (params) => ({ headers: Object.assign({}, json, params.headers) });

function must(response, status, what) {
  if (response.status !== status) {
    fail(`${what}: status ${response.status}, want ${status}: ${response.body}`);
  }
  return response.json();
}

export function login(person) {
  return http.post(`${base}/auth/login`, JSON.stringify({ email: person.email, password: password }), withBody({}));
}

// enrol registers people, signs them in and gives each a key. With API_KEY in the
// environment, that key is used instead and nobody is registered.
export function enrol() {
  if (__ENV.API_KEY) {
    return [{ key: __ENV.API_KEY, token: __ENV.TOKEN || "" }];
  }
  const all = [];
  for (let i = 0; i < people; i++) {
    const person = { email: `load-${Date.now()}-${i}@example.com` };
    const account = { email: person.email, password: password };
    must(http.post(`${base}/auth/register`, JSON.stringify(account), withBody({})), 201, "register");
    person.token = must(login(person), 200, "sign in").access_token;
    const key = http.post(`${base}/api-keys`, JSON.stringify({ name: "load" }), withBody(asSession(person)));
    person.key = must(key, 201, "create a key").key;
    all.push(person);
  }
  return all;
}

// turn is whose turn it is, and the number of the iteration of this worker.
export function turn(all) {
  return all[(__VU + __ITER) % all.length];
}

// right fails the run unless the answer has one of the statuses.
export function right(response, ...statuses) {
  return check(response, { [`status ${statuses.join(" or ")}`]: (r) => statuses.includes(r.status) });
}
