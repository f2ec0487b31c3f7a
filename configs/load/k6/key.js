// Using credentials at the platform itself: a key and an access token in turn.
import http from "k6/http";
import { asKey, asSession, base, enrol, options as shared, right, turn } from "./lib.js";

export const options = shared("500");
export const setup = enrol;

export default function (people) {
  const person = turn(people);
  const params = person.token && __ITER % 2 === 1 ? asSession(person) : asKey(person);
  right(http.get(`${base}/api/test`, params), 200);
}
