package etcd

import (
	"context"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
)

// ErrAgain is the end of a watch whose revision was compacted.
var ErrAgain = errAgain

// Parse reads a value.
func Parse(value, scheme string) discovery.Found {
	return parse(keyValue{Key: []byte("k"), Value: []byte(value)}, scheme)
}

// RangeEnd is the end of a prefix.
func RangeEnd(prefix string) string { return string(prefixed(prefix).RangeEnd) }

// Follow watches from a revision on, and returns how that ended.
func Follow(ctx context.Context, c Config, from int64) error {
	client, err := registry.Open(registry.Options{HeaderTimeout: answerTimeout})
	if err != nil {
		return err
	}
	defer client.Close()
	w := &watch{source: New(c), client: client, url: c.Endpoints[0], publish: func([]discovery.Found) {}, entries: map[string]discovery.Found{}}
	return w.follow(ctx, from)
}

// Message returns what a message of a watch makes of an empty prefix.
func Message(line []byte) (found []discovery.Found, err error) {
	w := &watch{
		source: New(Config{Scheme: "http"}), entries: map[string]discovery.Found{},
		publish: func(list []discovery.Found) { found = list },
	}
	err = w.event(line)
	return found, err
}
