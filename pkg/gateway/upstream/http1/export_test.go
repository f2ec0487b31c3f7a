package http1

import "net/http"

// Encode is what is sent for a request that suits.
func Encode(r *http.Request) []byte { return appendRequest(nil, r) }
