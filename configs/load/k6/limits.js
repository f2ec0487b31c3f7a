// One key at a route that lets 50 requests a second through: more are refused with
// 429, and told when to come again. The document is ../gateway.yaml.
import http from "k6/http";
import { check } from "k6";
import { asKey, base, enrol, options as shared, right } from "./lib.js";

// 429 is what is expected here, and no failure.
http.setResponseCallback(http.expectedStatuses(200, 429));

export const options = shared("200");
export const setup = enrol;

export default function (people) {
  const response = http.get(`${base}/api/limited/products`, asKey(people[0]));
  right(response, 200, 429);
  check(response, {
    "a refusal says when to come again": (r) => r.status !== 429 || Number(r.headers["Retry-After"]) > 0,
    "every answer says what is left": (r) => r.headers["Ratelimit"] !== undefined || r.headers["RateLimit"] !== undefined,
  });
}
