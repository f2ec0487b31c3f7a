package kubernetes

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
)

// Times of writing statuses.
const (
	writeGap   = 50 * time.Millisecond // between two writes
	writePause = time.Second           // after a failure; it doubles
	writeRest  = 30 * time.Second      // the longest pause
)

// writer writes statuses and events, one at a time, while this replica leads. What has
// not changed is never written, and nothing is written twice for the same version of
// an object: a conflict means that a newer version is on its way here, from which the
// status is made again.
type writer struct {
	client *apiserver.Client
	holder string
	logger *slog.Logger
	leads  func() bool
	wake   chan struct{}

	mu      sync.Mutex // guards what follows
	pending map[string]translate.Status
	written map[string]string // the version of each object that a status was written for
	events  []translate.Refusal
	told    map[string]bool // events that were written
}

func newWriter(c *apiserver.Client, holder string, logger *slog.Logger) *writer {
	return &writer{
		client: c, holder: holder, logger: logger, wake: make(chan struct{}, 1),
		pending: map[string]translate.Status{}, written: map[string]string{}, told: map[string]bool{},
	}
}

func (w *writer) wakeUp() { nudge(w.wake) }

// set replaces what is to be written.
func (w *writer) set(statuses []translate.Status, refused []translate.Refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pending, written := map[string]translate.Status{}, map[string]string{}
	for _, s := range statuses {
		key := s.Kind + " " + s.Meta.Key()
		if w.written[key] == s.Meta.ResourceVersion {
			written[key] = s.Meta.ResourceVersion
		} else if s.Changed {
			pending[key] = s
		}
	}
	w.pending, w.written = pending, written
	told := map[string]bool{}
	w.events = nil
	for _, r := range refused {
		if r.Kind != translate.KindIngress {
			continue // has conditions
		}
		if key := eventKey(r); w.told[key] {
			told[key] = true
		} else {
			w.events = append(w.events, r)
		}
	}
	w.told = told
	if len(pending)+len(w.events) > 0 {
		w.wakeUp()
	}
}

func eventKey(r translate.Refusal) string {
	return r.Meta.UID + " " + r.Meta.Key() + " " + r.Message
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	pause := writePause
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for w.leads() && ctx.Err() == nil {
			more, err := w.one(ctx)
			wait := writeGap
			switch {
			case err != nil && ctx.Err() == nil:
				w.logger.Warn("a status cannot be written", "error", err)
				wait, pause = pause, min(2*pause, writeRest)
			case !more:
				wait = 0
			default:
				pause = writePause
			}
			if wait == 0 {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

// one writes one status or event; it reports whether there was any.
func (w *writer) one(ctx context.Context) (more bool, err error) {
	w.mu.Lock()
	var key string
	var status translate.Status
	for key, status = range w.pending {
		break
	}
	var event *translate.Refusal
	if key == "" && len(w.events) > 0 {
		event = &w.events[0]
	}
	w.mu.Unlock()
	switch {
	case key != "":
		return true, w.status(ctx, key, status)
	case event != nil:
		return true, w.event(ctx, *event)
	}
	return false, nil
}

// status writes one status as a merge patch of the version that it was made for.
func (w *writer) status(ctx context.Context, key string, s translate.Status) error {
	err := w.client.Do(ctx, http.MethodPatch, pathOf(s.Kind, s.Meta)+"/status", nil, map[string]any{
		"metadata": map[string]string{"resourceVersion": s.Meta.ResourceVersion}, "status": s.Value,
	}, nil)
	switch apiserver.Status(err) {
	case http.StatusConflict, http.StatusNotFound:
		err = nil // a newer version, or the removal, is on its way
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		// It will not be taken however often it is tried, and the statuses of others wait.
		w.logger.WarnContext(ctx, "a status is not taken by the API server", "kind", s.Kind, "object", s.Meta.Key(), "error", err)
		err = nil
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending[key].Meta == s.Meta {
		delete(w.pending, key)
	}
	w.written[key] = s.Meta.ResourceVersion
	return nil
}

// pathOf is the path of an object.
func pathOf(kind string, m *object.Meta) string {
	const gateway = "/apis/gateway.networking.k8s.io/v1/"
	in := "namespaces/" + url.PathEscape(m.Namespace) + "/"
	name := "/" + url.PathEscape(m.Name)
	switch kind {
	case translate.KindIngress:
		return "/apis/networking.k8s.io/v1/" + in + "ingresses" + name
	case translate.KindGatewayClass:
		return gateway + "gatewayclasses" + name
	case translate.KindGateway:
		return gateway + in + "gateways" + name
	default:
		return gateway + in + "httproutes" + name
	}
}

// maxNote bounds the message of an event, as the API server does.
const maxNote = 1024

// event tells of an Ingress that is refused: its status has no place for that.
func (w *writer) event(ctx context.Context, r translate.Refusal) error {
	now := time.Now().UTC().Format(time.RFC3339)
	err := w.client.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+url.PathEscape(r.Meta.Namespace)+"/events", nil, map[string]any{
		"apiVersion": "v1", "kind": "Event", "metadata": map[string]string{"generateName": "keywarden-", "namespace": r.Meta.Namespace},
		"involvedObject": map[string]string{
			"apiVersion": "networking.k8s.io/v1", "kind": r.Kind, "namespace": r.Meta.Namespace, "name": r.Meta.Name,
			"uid": r.Meta.UID, "resourceVersion": r.Meta.ResourceVersion,
		},
		"type": "Warning", "reason": r.Reason, "message": r.Message[:min(len(r.Message), maxNote)],
		"source": map[string]string{"component": "keywarden"}, "reportingComponent": "keywarden", "reportingInstance": w.holder,
		"firstTimestamp": now, "lastTimestamp": now, "count": 1,
	}, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) > 0 && eventKey(w.events[0]) == eventKey(r) {
		w.events = w.events[1:]
	}
	w.told[eventKey(r)] = true // also when it failed: it is a courtesy
	return err
}
