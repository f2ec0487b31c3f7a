package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// Times and bounds of a collection.
const (
	watchFor   = 5 * time.Minute // and up to as much again: the server ends a watch then
	watchSlack = 30 * time.Second

	firstPause  = 250 * time.Millisecond // before it is tried again; it doubles
	longest     = 30 * time.Second
	absentPause = 30 * time.Second // before a kind that the cluster does not have is asked for again

	pageSize = 250
	// MaxObjects bounds the objects of a collection that has no smaller bound.
	MaxObjects = 50_000
)

// Collection is the objects of one kind, as far as they are known. All methods are safe
// for concurrent use, but one of Run and Follow at a time.
type Collection[T any, P interface {
	*T
	Meta() *object.Meta
}] struct {
	options Options

	mu      sync.Mutex // guards what follows
	objects map[string]P
	version string // up to which objects is current
	synced  bool   // there was a whole list, or the kind does not exist
	seen    bool   // there was a whole list
	failure error  // of the last attempt; nil while all is well
}

// Options say what a collection is of.
type Options struct {
	Client *Client

	// Path is that of the list, such as /apis/networking.k8s.io/v1/ingresses.
	Path string

	// Labels, unless it is empty, selects the objects that have these: name=value.
	Labels string

	// Optional kinds need not exist in the cluster: then there are none.
	Optional bool

	// Strict takes an object that cannot be read for a failure. Otherwise it is as if it
	// were not there, so that whoever made it keeps no others from being seen.
	Strict bool

	// Most bounds the objects; 0 is MaxObjects.
	Most int

	// Changed is called when objects have changed, or what is known of their freshness.
	// It must return at once.
	Changed func()
}

// NewCollection makes a collection that has not asked for anything yet.
func NewCollection[T any, P interface {
	*T
	Meta() *object.Meta
}](o Options) *Collection[T, P] {
	if o.Most == 0 {
		o.Most = MaxObjects
	}
	return &Collection[T, P]{options: o, objects: map[string]P{}}
}

// Objects are the objects that are known, in no order. They must not be changed.
func (c *Collection[T, P]) Objects() []P {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]P, 0, len(c.objects))
	for _, o := range c.objects {
		list = append(list, o)
	}
	return list
}

// State reports whether all objects were known once, and why they are not known to be
// up to date; nil when they are.
func (c *Collection[T, P]) State() (synced bool, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced, c.failure
}

// Run follows the objects until ctx ends. What is known stays while the API server does
// not answer.
func (c *Collection[T, P]) Run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := c.Follow(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := absentPause
		if !errors.Is(err, errAbsent) {
			c.fail(err)
			if time.Since(began) > longest {
				pause = firstPause // it went well for long
			}
			wait, pause = pause, min(2*pause, longest)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// Follow follows the objects until something fails or ctx ends: it is Run for who has
// retries of its own. The error is never nil. That a version was too old is no failure.
func (c *Collection[T, P]) Follow(ctx context.Context) error {
	for {
		if err := c.round(ctx); !errors.Is(err, errGone) {
			return err
		}
		if !sleep(ctx, firstPause) {
			return ctx.Err()
		}
	}
}

// sleep waits for between half of d and d; it reports whether the context still goes
// on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d/2)) //nolint:gosec // no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

var (
	errGone   = errors.New("the resource version is gone")
	errAbsent = errors.New("the cluster does not have this kind of object")
)

// round lists once and watches until something fails.
func (c *Collection[T, P]) round(ctx context.Context) error {
	if err := c.List(ctx); err != nil {
		return err
	}
	for {
		began := time.Now()
		if err := c.watch(ctx); err != nil {
			return err
		}
		if time.Since(began) < time.Second && !sleep(ctx, firstPause) { // a watch may end at once
			return ctx.Err()
		}
	}
}

// List takes over all objects. On error, those that are known stay.
func (c *Collection[T, P]) List(ctx context.Context) error {
	objects := map[string]P{}
	var version string
	query, limit := c.query(), pageSize
	for {
		query.Set("limit", strconv.Itoa(limit))
		var page struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		err := c.options.Client.Do(ctx, http.MethodGet, c.options.Path, query, nil, &page)
		if errors.Is(err, registry.ErrTooLong) && limit > 1 {
			limit = max(limit/4, 1) // somebody's objects are large: that must not keep those of others from here
			continue
		}
		if err != nil {
			return c.listed(err)
		}
		for _, item := range page.Items {
			o := P(new(T))
			err := json.Unmarshal(item, o)
			switch {
			case err == nil:
				objects[o.Meta().Key()] = o
			case c.options.Strict: // a field of another type than it should have
				return fmt.Errorf("%s: an object of the list is not what it should be: %w", c.options.Path, err)
			}
		}
		if len(objects) > c.options.Most {
			return c.tooMany()
		}
		version = page.Metadata.ResourceVersion
		if page.Metadata.Continue == "" {
			break
		}
		query.Set("continue", page.Metadata.Continue)
	}
	if version == "" {
		return fmt.Errorf("%s: the list has no resourceVersion", c.options.Path)
	}
	c.mu.Lock()
	c.objects, c.version, c.synced, c.seen, c.failure = objects, version, true, true, nil
	c.mu.Unlock()
	c.options.Changed()
	return nil
}

// query begins the parameters of a request.
func (c *Collection[T, P]) query() url.Values {
	if c.options.Labels == "" {
		return url.Values{}
	}
	return url.Values{"labelSelector": {c.options.Labels}}
}

func (c *Collection[T, P]) tooMany() error {
	return fmt.Errorf("%s: there are more than %d objects", c.options.Path, c.options.Most)
}

// listed says what the error of a list means.
func (c *Collection[T, P]) listed(err error) error {
	switch Status(err) {
	case http.StatusGone:
		return errGone
	case http.StatusNotFound:
		c.mu.Lock()
		absent := c.options.Optional && !c.seen // a kind that was there does not just go
		news := absent && !c.synced
		if absent {
			c.synced, c.failure = true, nil
		}
		c.mu.Unlock()
		if news {
			c.options.Changed()
		}
		if absent {
			return errAbsent
		}
	}
	return err
}

// fail notes that the objects are not known to be up to date.
func (c *Collection[T, P]) fail(err error) {
	c.mu.Lock()
	c.failure = err
	c.mu.Unlock()
	c.options.Changed()
}

// watch takes over what changes, until the server ends it in its own time (nil).
func (c *Collection[T, P]) watch(ctx context.Context) (err error) {
	span := watchFor + rand.N(watchFor) //nolint:gosec // no secret
	ctx, cancel := context.WithTimeout(ctx, span+watchSlack)
	defer cancel()
	defer func() {
		if !errors.Is(err, errGone) {
			c.options.Client.failed(err)
		}
	}()
	client, err := c.options.Client.client()
	if err != nil {
		return err
	}
	c.mu.Lock()
	version := c.version
	c.mu.Unlock()
	query := c.query()
	query.Set("watch", "1")
	query.Set("allowWatchBookmarks", "true")
	query.Set("resourceVersion", version)
	query.Set("timeoutSeconds", strconv.Itoa(int(span.Seconds())))
	r, err := c.options.Client.request(ctx, http.MethodGet, c.options.Path, query, nil)
	if err != nil {
		return err
	}
	if err := client.Stream(r, c.event); err != nil {
		if Status(err) == http.StatusGone {
			return errGone
		}
		return err
	}
	return nil
}

// event takes over one event of a watch.
func (c *Collection[T, P]) event(line []byte) error {
	var event struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return fmt.Errorf("an event is not what it should be: %w", err)
	}
	if event.Type == "ERROR" {
		return failure(event.Object)
	}
	var known object.Object
	if err := json.Unmarshal(event.Object, &known); err != nil {
		return fmt.Errorf("the object of an event is not what it should be: %w", err)
	}
	o := P(new(T))
	broken := json.Unmarshal(event.Object, o)
	if broken != nil && c.options.Strict && event.Type != "BOOKMARK" {
		return fmt.Errorf("the object of an event is not what it should be: %w", broken)
	}
	c.mu.Lock()
	if known.Metadata.ResourceVersion != "" {
		c.version = known.Metadata.ResourceVersion
	}
	switch {
	case event.Type == "BOOKMARK":
		c.mu.Unlock()
		return nil
	case event.Type == "DELETED", broken != nil: // one that cannot be read is as if it were not there
		delete(c.objects, known.Metadata.Key())
	default:
		c.objects[known.Metadata.Key()] = o
	}
	many := len(c.objects) > c.options.Most
	c.mu.Unlock()
	if many {
		return c.tooMany()
	}
	c.options.Changed()
	return nil
}

// failure is the error of a Status object.
func failure(object []byte) error {
	var status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(object, &status); err != nil {
		return fmt.Errorf("an error of the watch is not what it should be: %w", err)
	}
	if status.Code == http.StatusGone {
		return errGone
	}
	return fmt.Errorf("the watch failed with status %d: %.200q", status.Code, status.Message)
}
