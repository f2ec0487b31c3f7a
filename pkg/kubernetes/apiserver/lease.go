package apiserver

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// Times of a lease (coordination.k8s.io/v1).
const (
	leaseFor   = 15 * time.Second
	leaseRenew = 4 * time.Second
)

// microTime is the form of times in a lease.
const microTime = "2006-01-02T15:04:05.000000Z"

// Lease elects one of several replicas. As others do it, clocks of other machines are
// not believed: a lease is over when it has not been seen to change for as long as it
// is good for.
type Lease struct {
	client    *Client
	path      string
	namespace string
	name      string
	holder    string
	elected   func() // called at the beginning of each term
	good      time.Duration
	renew     time.Duration

	until atomic.Int64 // when this replica stops being the leader, in Unix nanoseconds
	seen  leaseSpec    // as it was last seen, with its version
	at    time.Time    // since when it is seen like that
}

type leaseSpec struct {
	version string
	holder  string
}

// leaseObject is a Lease on the wire.
type leaseObject struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Metadata   struct {
		Name            string `json:"name,omitempty"`
		Namespace       string `json:"namespace,omitempty"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Spec struct {
		HolderIdentity       string `json:"holderIdentity"`
		LeaseDurationSeconds int    `json:"leaseDurationSeconds,omitempty"`
		AcquireTime          string `json:"acquireTime,omitempty"`
		RenewTime            string `json:"renewTime,omitempty"`
	} `json:"spec"`
}

// NewLease makes a lease that nobody has asked for yet. elected, which may be nil, must
// return at once.
func NewLease(c *Client, namespace, name, holder string, elected func()) *Lease {
	path := "/apis/coordination.k8s.io/v1/namespaces/" + url.PathEscape(namespace) + "/leases"
	return &Lease{client: c, path: path, namespace: namespace, name: name, holder: holder, elected: elected, good: leaseFor, renew: leaseRenew}
}

// Held reports whether this replica is the leader.
func (l *Lease) Held() bool { return time.Now().UnixNano() < l.until.Load() }

// Run takes the lease when it can be had and renews it, until ctx ends; then it is
// given back. report hears of each failure.
func (l *Lease) Run(ctx context.Context, report func(error)) {
	for ctx.Err() == nil {
		if err := l.try(ctx); err != nil && ctx.Err() == nil {
			report(err)
		}
		sleep(ctx, l.renew)
	}
	if l.Held() {
		l.until.Store(0)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		var lease leaseObject
		lease.Metadata.ResourceVersion = l.seen.version
		_ = l.client.Do(ctx, http.MethodPatch, l.path+"/"+l.name, nil, lease, nil) // it runs out by itself
	}
}

// try makes one attempt to get or to keep the lease. A conflict is no error: another
// replica was faster.
func (l *Lease) try(ctx context.Context) error {
	began := time.Now()
	var lease leaseObject
	err := l.client.Do(ctx, http.MethodGet, l.path+"/"+l.name, nil, nil, &lease)
	switch {
	case Status(err) == http.StatusNotFound:
		lease = leaseObject{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		lease.Metadata.Name, lease.Metadata.Namespace = l.name, l.namespace
		l.fill(&lease)
		err = l.client.Do(ctx, http.MethodPost, l.path, nil, lease, &lease)
	case err != nil:
		return err
	default:
		now := leaseSpec{lease.Metadata.ResourceVersion, lease.Spec.HolderIdentity}
		if now != l.seen {
			l.seen, l.at = now, began
		}
		if now.holder != l.holder && now.holder != "" && began.Sub(l.at) < l.good {
			return nil
		}
		l.fill(&lease)
		err = l.client.Do(ctx, http.MethodPatch, l.path+"/"+l.name, nil, lease, &lease)
	}
	switch {
	case Status(err) == http.StatusConflict:
		return nil
	case err != nil:
		return err
	}
	held := l.Held()
	l.seen, l.at = leaseSpec{lease.Metadata.ResourceVersion, l.holder}, began
	l.until.Store(began.Add(l.good).UnixNano())
	if !held && l.elected != nil {
		l.elected()
	}
	return nil
}

// fill makes this replica the holder.
func (l *Lease) fill(lease *leaseObject) {
	now := time.Now().UTC().Format(microTime)
	if lease.Spec.HolderIdentity != l.holder || lease.Spec.AcquireTime == "" {
		lease.Spec.AcquireTime = now
	}
	lease.Spec.HolderIdentity, lease.Spec.RenewTime = l.holder, now
	lease.Spec.LeaseDurationSeconds = int(l.good / time.Second)
}
