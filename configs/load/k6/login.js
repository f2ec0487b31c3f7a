// Signing in with a password. One password hash takes longer than the bounds of the
// other scripts, on purpose: say what yours takes with HASH_MS, to which the bounds
// are added ("make load" measures it).
import { enrol, login, options as shared, right, turn } from "./lib.js";

const hash = Number(__ENV.HASH_MS || "400");

export const options = shared("1", { p95: Number(__ENV.P95 || "50") + hash, p99: Number(__ENV.P99 || "100") + hash });
export const setup = enrol;

export default function (people) {
  right(login(turn(people)), 200);
}
