// Package etcd follows the targets of a service that are kept below a prefix of
// etcd, by the JSON gateway of its version 3 API: one range, then a watch from the
// revision of the range on, and a range again when that revision was compacted.
package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// Config is what is asked for, and of whom. Endpoints and Prefix are required.
type Config struct {
	Endpoints    []string // URLs of members, without a slash at their end
	Prefix       string
	Scheme       string // that values with a URL must have
	Username     string
	PasswordFile string
	TLS          upstream.TLS
}

// Times and bounds of asking.
const (
	answerTimeout = 10 * time.Second

	// resync is how long a watch is trusted: a member that lost the others, or a
	// middlebox, can keep one open that has nothing more to say.
	resync = 5 * time.Minute

	pause = 250 * time.Millisecond // between two rounds

	maxKeys = 10 * discovery.MaxTargets
)

// Source follows a prefix. Each failure makes it ask the next member.
type Source struct {
	config   Config
	attempts atomic.Uint64
}

var _ discovery.Source = (*Source)(nil)

// New makes a source.
func New(c Config) *Source { return &Source{config: c} }

// Watch implements [discovery.Source].
func (s *Source) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	client, err := registry.Open(registry.Options{TLS: s.config.TLS, HeaderTimeout: answerTimeout})
	if err != nil {
		return err
	}
	defer client.Close()
	n := uint64(len(s.config.Endpoints))
	w := &watch{source: s, client: client, url: s.config.Endpoints[(s.attempts.Add(1)-1)%n], publish: publish}
	for {
		if err := w.round(ctx); err != nil {
			return fmt.Errorf("asking etcd at %s: %w", w.url, err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// watch is one conversation with a member.
type watch struct {
	source  *Source
	client  *registry.Client
	url     string
	token   string // of the user; empty without one
	publish func([]discovery.Found)
	entries map[string]discovery.Found // by key
}

// errAgain ends a watch whose revision etcd no longer has.
var errAgain = errors.New("the revision was compacted")

// round reads everything, then follows what changes; nil asks for another round.
func (w *watch) round(ctx context.Context) error {
	if err := w.authenticate(ctx); err != nil {
		return fmt.Errorf("authenticating: %w", err)
	}
	revision, err := w.read(ctx)
	if err != nil {
		return err
	}
	w.tell()
	ctx, cancel := context.WithTimeout(ctx, resync)
	defer cancel()
	err = w.follow(ctx, revision+1)
	switch {
	case errors.Is(err, errAgain), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil
	case err == nil:
		return errors.New("the watch has ended")
	}
	return err
}

// authenticate gets a token where there is a user. Tokens expire: each round has
// its own.
func (w *watch) authenticate(ctx context.Context) error {
	c := &w.source.config
	if c.Username == "" {
		return nil
	}
	password, err := registry.Secret(c.PasswordFile)
	if err != nil {
		return err
	}
	w.token = ""
	var answer struct {
		Token string `json:"token"`
	}
	body := map[string]string{"name": c.Username, "password": password.Reveal()}
	if err := w.ask(ctx, "/v3/auth/authenticate", body, &answer); err != nil {
		return err
	}
	w.token = answer.Token
	return nil
}

// ask posts a question that is answered at once.
func (w *watch) ask(ctx context.Context, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, err := w.request(ctx, path, body)
	if err != nil {
		return err
	}
	_, err = w.client.Do(r, answer)
	return err
}

func (w *watch) request(ctx context.Context, path string, body any) (*http.Request, error) {
	r, err := registry.Post(ctx, w.url+path, body)
	if err != nil {
		return nil, err
	}
	if w.token != "" {
		r.Header.Set("Authorization", w.token)
	}
	// A member that lost the others refuses, rather than say nothing any more.
	r.Header.Set("Grpc-Metadata-Hasleader", "true")
	return r, nil
}

// keyRange selects a prefix; the JSON form of bytes is base64.
type keyRange struct {
	Key      []byte `json:"key"`
	RangeEnd []byte `json:"range_end"`
}

// prefixed selects all keys that begin with prefix: up to the first that does not.
func prefixed(prefix string) keyRange {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return keyRange{[]byte(prefix), end[:i+1]}
		}
	}
	return keyRange{[]byte(prefix), []byte{0}} // to the last key
}

// number is a 64-bit integer, which JSON has as a text.
type number int64

// UnmarshalJSON reads both forms.
func (n *number) UnmarshalJSON(text []byte) error {
	if len(text) > 1 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	i, err := strconv.ParseInt(string(text), 10, 64)
	*n = number(i)
	return err
}

type keyValue struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

type header struct {
	Revision number `json:"revision"`
}

// read takes over all keys, and returns the revision that they are of.
func (w *watch) read(ctx context.Context) (revision int64, err error) {
	var answer struct {
		Header header     `json:"header"`
		KVs    []keyValue `json:"kvs"`
		More   bool       `json:"more"`
	}
	question := struct {
		keyRange
		Limit int `json:"limit"`
	}{prefixed(w.source.config.Prefix), maxKeys}
	if err := w.ask(ctx, "/v3/kv/range", question, &answer); err != nil {
		return 0, err
	}
	if answer.More {
		return 0, fmt.Errorf("there are more than %d keys below the prefix", maxKeys)
	}
	if answer.Header.Revision < 1 {
		return 0, errors.New("the answer has no revision")
	}
	w.entries = make(map[string]discovery.Found, len(answer.KVs))
	for _, kv := range answer.KVs {
		w.entries[string(kv.Key)] = parse(kv, w.source.config.Scheme)
	}
	return int64(answer.Header.Revision), nil
}

// follow takes over changes from a revision on.
func (w *watch) follow(ctx context.Context, from int64) error {
	create := struct {
		keyRange
		StartRevision int64 `json:"start_revision,string"`
	}{prefixed(w.source.config.Prefix), from}
	r, err := w.request(ctx, "/v3/watch", map[string]any{"create_request": create})
	if err != nil {
		return err
	}
	return w.client.Stream(r, w.event)
}

// event takes over one message of a watch.
func (w *watch) event(line []byte) error {
	var message struct {
		Result struct {
			Canceled        bool   `json:"canceled"`
			CancelReason    string `json:"cancel_reason"`
			CompactRevision number `json:"compact_revision"`
			Events          []struct {
				Type string   `json:"type"` // PUT, which may be left out, or DELETE
				KV   keyValue `json:"kv"`
			} `json:"events"`
		} `json:"result"`
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &message); err != nil {
		return fmt.Errorf("a message of the watch is not what it should be: %w", err)
	}
	result := &message.Result
	switch {
	case message.Error != nil:
		return fmt.Errorf("the watch failed: %.200q", message.Error.Message)
	case result.CompactRevision > 0:
		return errAgain
	case result.Canceled:
		return fmt.Errorf("the watch was cancelled: %.200q", result.CancelReason)
	case len(result.Events) == 0:
		return nil
	}
	for _, e := range result.Events {
		if e.Type == "DELETE" {
			delete(w.entries, string(e.KV.Key))
		} else {
			w.entries[string(e.KV.Key)] = parse(e.KV, w.source.config.Scheme)
		}
	}
	if len(w.entries) > maxKeys {
		return fmt.Errorf("there are more than %d keys below the prefix", maxKeys)
	}
	w.tell()
	return nil
}

func (w *watch) tell() { w.publish(slices.Collect(maps.Values(w.entries))) }
