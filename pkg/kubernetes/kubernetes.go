// Package kubernetes is the source of the gateway document that follows the objects of
// a cluster: Ingress, and Gateway and HTTPRoute of the Gateway API. It keeps them up to
// date by the API server (package apiserver), has the document made of them (package
// translate), gives it to whoever serves it, and, as the leader of its replicas, writes
// back what became of each object.
//
// What is known goes on being served while the API server does not answer. Targets are
// not its business: the services of the document have them looked up by package
// gateway/discovery/kubernetes.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Target serves documents; gateway.Gateway and feed.Reporter are some.
type Target interface {
	Apply(doc spec.Document) error
	Refused(err error)
}

// Options configure a [Source]. All fields but Addresses and LeaseNamespace are
// required.
type Options struct {
	API        apiserver.Config
	Controller string   // the name by which classes choose this gateway
	Addresses  []string // under which the gateway is reached, for statuses
	TLS        bool     // the gateway's own listener speaks TLS
	Reserved   []string // host names of the platform itself, which no object gets

	// WriteStatus lets one of the replicas, the leader, write statuses and events.
	WriteStatus    bool
	LeaseNamespace string // empty: that of the pod
	Holder         string // the name of this replica

	Target Target
	Logger *slog.Logger
}

// More changes are waited for after the first, so that a change of many objects is one
// document: for gather, or, where making a document takes long, for so many times as
// long that a cluster that changes all the time costs no more than a share of a core.
const (
	gather      = 50 * time.Millisecond
	gatherTimes = 3
	gatherMost  = 5 * time.Second
)

// Source follows the objects. Load, Run and what they call are for one goroutine; the
// other methods for any.
type Source struct {
	opts    Options
	client  *apiserver.Client
	changed chan struct{}
	reload  chan struct{}

	ingressClasses  *apiserver.Collection[object.IngressClass, *object.IngressClass]
	ingresses       *apiserver.Collection[object.Ingress, *object.Ingress]
	gatewayClasses  *apiserver.Collection[object.GatewayClass, *object.GatewayClass]
	gateways        *apiserver.Collection[object.Gateway, *object.Gateway]
	httpRoutes      *apiserver.Collection[object.HTTPRoute, *object.HTTPRoute]
	referenceGrants *apiserver.Collection[object.ReferenceGrant, *object.ReferenceGrant]
	services        *apiserver.Collection[object.Service, *object.Service]
	namespaces      *apiserver.Collection[object.Namespace, *object.Namespace]

	translator *translate.Translator
	writer     *writer
	lease      *apiserver.Lease
	said       map[string]bool // refusals that were logged
	digest     string          // of the document that was applied last
	stale      string          // why what is known may be old; empty when it is not

	mu      sync.Mutex // guards what follows
	filled  bool
	refused []translate.Refusal
}

// collection is what all collections can do.
type collection interface {
	List(ctx context.Context) error
	Run(ctx context.Context)
	State() (synced bool, failure error)
}

// New makes a source that has not asked for anything yet.
func New(o Options) *Source {
	s := &Source{
		opts: o, client: apiserver.New(o.API), changed: make(chan struct{}, 1), reload: make(chan struct{}, 1),
		translator: translate.New(), said: map[string]bool{},
	}
	at := func(path string, optional bool) apiserver.Options {
		return apiserver.Options{Client: s.client, Path: path, Optional: optional, Changed: func() { nudge(s.changed) }}
	}
	const networking, gateway = "/apis/networking.k8s.io/v1/", "/apis/gateway.networking.k8s.io/"
	s.ingressClasses = apiserver.NewCollection[object.IngressClass](at(networking+"ingressclasses", false))
	s.ingresses = apiserver.NewCollection[object.Ingress](at(networking+"ingresses", false))
	s.gatewayClasses = apiserver.NewCollection[object.GatewayClass](at(gateway+"v1/gatewayclasses", true))
	s.gateways = apiserver.NewCollection[object.Gateway](at(gateway+"v1/gateways", true))
	s.httpRoutes = apiserver.NewCollection[object.HTTPRoute](at(gateway+"v1/httproutes", true))
	s.referenceGrants = apiserver.NewCollection[object.ReferenceGrant](at(gateway+"v1beta1/referencegrants", true))
	s.services = apiserver.NewCollection[object.Service](at("/api/v1/services", false))
	s.namespaces = apiserver.NewCollection[object.Namespace](at("/api/v1/namespaces", false))
	namespace := o.LeaseNamespace
	if namespace == "" {
		namespace = apiserver.Namespace()
	}
	s.writer = newWriter(s.client, o.Holder, o.Logger)
	s.lease = apiserver.NewLease(s.client, namespace, "keywarden-status", o.Holder, s.writer.wakeUp)
	s.writer.leads = s.lease.Held
	return s
}

func (s *Source) collections() []collection {
	return []collection{s.ingressClasses, s.ingresses, s.gatewayClasses, s.gateways, s.httpRoutes, s.referenceGrants, s.services, s.namespaces}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// Load asks for all objects once and applies the document, so that a replica that
// begins to serve has its routes. What cannot be had is logged: Run goes on trying, and
// the replica is not ready until then.
func (s *Source) Load(ctx context.Context) {
	var asking sync.WaitGroup
	for _, c := range s.collections() {
		asking.Go(func() {
			if err := c.List(ctx); err != nil {
				if synced, _ := c.State(); !synced {
					s.opts.Logger.ErrorContext(ctx, "the objects of Kubernetes cannot be read yet", "error", err)
				}
			}
		})
	}
	asking.Wait()
	s.update()
}

// Run follows the objects until ctx ends.
func (s *Source) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range s.collections() {
		running.Go(func() { c.Run(ctx) })
	}
	if s.opts.WriteStatus {
		running.Go(func() { s.lease.Run(ctx, s.leaseFailed) })
		running.Go(func() { s.writer.run(ctx) })
	}
	s.follow(ctx)
	running.Wait()
	s.client.Close()
}

func (s *Source) leaseFailed(err error) {
	s.opts.Logger.Warn("the lease of those who write statuses cannot be had", "error", err)
}

// follow makes a document after each change.
func (s *Source) follow(ctx context.Context) {
	pause := gather
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.reload:
			s.opts.Logger.Info("reloading the gateway document")
			s.digest = ""
		case <-s.changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		began := time.Now()
		s.update()
		pause = min(max(gather, gatherTimes*time.Since(began)), gatherMost)
	}
}

// Reload makes Run apply the document again, whether it has changed or not. It returns
// at once.
func (s *Source) Reload() { nudge(s.reload) }

// Filled reports whether all objects were known once, and a document of them is served.
func (s *Source) Filled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.filled
}

// Refused are the objects that are not, or not wholly, served at the moment.
func (s *Source) Refused() []translate.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// errStale says that the document may be old.
var errStale = errors.New("the API server of Kubernetes cannot be asked, what was known is served")

// update makes a document of what is known, and applies it when it is new.
func (s *Source) update() {
	complete, stale := s.freshness()
	if !complete {
		if stale != nil {
			s.opts.Target.Refused(fmt.Errorf("the objects of Kubernetes are not known yet: %w", stale))
		}
		return
	}
	result := s.translator.Translate(s.objects(), translate.Options{
		Controller: s.opts.Controller, Addresses: s.opts.Addresses, TLS: s.opts.TLS, Reserved: s.opts.Reserved,
		APIURL: s.opts.API.URL, TokenFile: s.opts.API.TokenFile, CAFile: s.opts.API.CAFile,
	}, time.Now())
	s.tell(result.Refused)
	s.apply(&result, stale)
	s.writer.set(result.Statuses, result.Refused)
}

// freshness reports whether every kind was read once, and why one is not known to be
// up to date.
func (s *Source) freshness() (complete bool, stale error) {
	complete = true
	for _, c := range s.collections() {
		synced, failure := c.State()
		complete = complete && synced
		if failure != nil && stale == nil {
			stale = failure
		}
	}
	return complete, stale
}

// apply gives the document to the target, when it is new, or when the last one was
// stale and is no longer.
func (s *Source) apply(result *translate.Result, stale error) {
	digest, err := result.Document.Digest()
	before, reason := s.stale, ""
	if stale != nil {
		reason = stale.Error()
	}
	s.stale = reason
	if err == nil && (digest.String() != s.digest || before != "" && stale == nil) {
		err = s.opts.Target.Apply(result.Document)
		if err == nil {
			s.digest = digest.String()
			s.fill()
		}
	}
	switch {
	case err != nil:
		s.opts.Target.Refused(err)
		s.opts.Logger.Error("the document that was made of the objects of Kubernetes is refused, the previous one goes on", "error", err)
	case stale != nil:
		s.opts.Target.Refused(fmt.Errorf("%w: %w", errStale, stale))
		if before == "" {
			s.opts.Logger.Error("the API server of Kubernetes cannot be asked, what was known is served", "error", stale)
		}
	case before != "":
		s.opts.Logger.Info("the API server of Kubernetes answers again")
	}
}

func (s *Source) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filled = true
}

// tell logs each refusal once.
func (s *Source) tell(refused []translate.Refusal) {
	said := make(map[string]bool, len(refused))
	for _, r := range refused {
		key := r.Kind + " " + r.Meta.Key() + " " + r.Message
		if said[key] = true; !s.said[key] {
			s.opts.Logger.Warn("an object of Kubernetes is not served as it is", "kind", r.Kind, "object", r.Meta.Key(), "reason", r.Reason, "message", r.Message)
		}
	}
	s.said = said
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = refused
}

// objects are all that is known.
func (s *Source) objects() translate.Objects {
	return translate.Objects{
		IngressClasses: s.ingressClasses.Objects(), Ingresses: s.ingresses.Objects(),
		GatewayClasses: s.gatewayClasses.Objects(), Gateways: s.gateways.Objects(), HTTPRoutes: s.httpRoutes.Objects(),
		ReferenceGrants: s.referenceGrants.Objects(), Services: s.services.Objects(), Namespaces: s.namespaces.Objects(),
	}
}
