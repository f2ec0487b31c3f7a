// Package attacktest replays black-box attack cases against a running gateway
// and judges what the client and the backend saw. Only tests import it.
//
// It owns three things: the case file's format ([Load]), a strict backend that
// records every request it gets and every framing anomaly in it ([Start]), and
// the runner that sends a case's bytes and checks the outcome ([Run]). It does
// not start or configure the gateway; the caller does, from a document that
// routes to the backend's address.
//
// Cases are data, one JSON object per line. A raw case is bytes on a TCP
// connection, so that requests no HTTP library would send can be sent; an http
// case is calls to the management API. Cases of area CTRL run first and must
// pass: a gateway that refuses everything must not look good.
package attacktest
