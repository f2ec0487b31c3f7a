// Calls through the gateway to the two sample services: lists, single records, and
// one write in ten. The document is ../gateway.yaml.
import http from "k6/http";
import { asKey, base, enrol, options as shared, right, turn, withBody } from "./lib.js";

export const options = shared("500");
export const setup = enrol;

const paths = [
  "/api/users", "/api/products", "/api/users/1", "/api/products/1", "/api/products",
  "/api/users/2", "/api/products/2", "/api/users", "/api/products/1",
];

export default function (people) {
  const params = asKey(turn(people));
  const n = __ITER % (paths.length + 1);
  if (n < paths.length) {
    right(http.get(`${base}${paths[n]}`, params), 200);
  } else {
    right(http.patch(`${base}/api/products/1`, JSON.stringify({ stock: 7 }), withBody(params)), 200);
  }
}
