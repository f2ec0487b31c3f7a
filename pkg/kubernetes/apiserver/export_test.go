package apiserver

import (
	"time"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// Hasten makes a lease good for a shorter time.
func (l *Lease) Hasten(good, renew time.Duration) { l.good, l.renew = good, renew }

// Event gives one event of a watch to an empty collection and returns the keys that it
// has then.
func Event(line []byte) ([]string, error) {
	c := NewCollection[object.Ingress](Options{Client: New(Config{URL: "http://unused.invalid"}), Changed: func() {}})
	err := c.event(line)
	var keys []string
	for _, o := range c.Objects() {
		keys = append(keys, o.Metadata.Key())
	}
	return keys, err
}
