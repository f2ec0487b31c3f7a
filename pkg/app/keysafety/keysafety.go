// Package keysafety connects what protects keys that were handed out: reports of
// leaked ones, canary keys, the rules for scanners, and what is looked at for the
// report on the posture of the installation.
package keysafety

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/posture"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// Bounds that are not worth an option.
const (
	alarmBurst  = 5 // recorded uses of a canary key by one address
	alarmRefill = time.Minute

	postureKeys   = 1000
	postureAdmins = 100
)

// OpenAlarms makes what is told of uses of canary keys.
func OpenAlarms(store *postgres.Store, meter metric.Meter, logger *slog.Logger) (*keyguard.Alarms, error) {
	rate, err := throttle.New(alarmBurst, alarmRefill, time.Now)
	if err != nil {
		return nil, err
	}
	alarms := keyguard.NewAlarms(keyguard.AlarmOptions{
		Record: func(ctx context.Context, e audit.Entry) error {
			_, err := store.RecordChange(ctx, changes.Change{Audit: e})
			return err
		},
		Raise: func(a keyguard.Alarm) {
			logger.Warn("a canary key was used", "key_id", a.KeyID, "client", a.Client, "path", a.Path)
		},
		Rate: rate, Now: time.Now, Logger: logger,
	})
	_, err = meter.Int64ObservableCounter("keywarden.keys.canary_uses", metric.WithUnit("{use}"),
		metric.WithDescription("Uses of canary keys."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(alarms.Uses())
			return nil
		}))
	return alarms, err
}

// Facts gathers what the report on the posture looks at. document is the one in
// force, false before the first, and paths are the first segments of the platform's own.
func Facts(c *config.Config, store *postgres.Store, document func() (spec.Document, bool), paths func() []string) func(context.Context, time.Time) (posture.Facts, error) {
	tls := c.Server.TLS
	listeners := posture.Listeners{
		Addr: c.Server.Addr, TLS: tls.CertFile != "" || tls.Dir != "" || len(tls.ACME.Domains) > 0, Operators: c.Server.MetricsAddr,
	}
	return func(ctx context.Context, now time.Time) (posture.Facts, error) {
		f := posture.Facts{Listeners: listeners}
		if len(c.Server.Hosts) == 0 {
			f.Platform = paths()
		}
		if doc, ok := document(); ok {
			f.Document = &doc
		}
		var err error
		if f.Keys, err = store.PostureKeys(ctx, now, postureKeys+1); err != nil {
			return f, err
		}
		if f.Admins, err = store.PostureAdmins(ctx, now, postureAdmins+1); err != nil {
			return f, err
		}
		if len(f.Keys) > postureKeys {
			f.Keys, f.Partial = f.Keys[:postureKeys], true
		}
		if len(f.Admins) > postureAdmins {
			f.Admins, f.Partial = f.Admins[:postureAdmins], true
		}
		return f, nil
	}
}
