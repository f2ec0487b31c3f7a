package http1

import "net/http"

// Encode is what is sent for a request that suits.
func Encode(r *http.Request) []byte {
	b, _ := appendRequest(nil, r, nil)
	return b
}

// Suits reports whether a request is a plain one.
func Suits(r *http.Request) bool {
	_, ok := appendRequest(nil, r, nil)
	return ok
}

// Watch has f told of each buffer that is lent, by 1, and given back, by -1.
func (c *Client) Watch(f func(lent int)) { c.buffers.watch = f }
