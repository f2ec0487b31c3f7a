// Package sample is the two example backends that the gateway is tried with: a
// user service and a product service.
//
// It owns their handlers ([Users], [Products]) and the frame that runs one as a
// program ([Command], [Serve]). Records live in memory, start from a few fixed
// ones and are gone when the program ends; nothing here authenticates, because
// that is the gateway's part. The two services share everything except their
// record type and what makes a record valid.
//
// Paths are served at the root and below /api alike, so that a route may strip
// that prefix or not.
package sample
