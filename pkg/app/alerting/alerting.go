// Package alerting connects alerts with what they are about: usage, quotas, keys,
// targets and certificates; and with the ways to tell of them that the configuration
// gives.
package alerting

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/alert/channel"
	"github.com/keywarden/keywarden/pkg/certstore"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/netguard"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/alertstore"
)

// Options is what it is made of. All fields are required.
type Options struct {
	Config       config.Alerts
	Store        *postgres.Store
	Ring         *seal.Keyring
	ReplicaID    string
	Backends     func() []gateway.BackendState // of the document in force
	Certificates func() []certstore.Info       // that are served
	Meter        metric.Meter
	Logger       *slog.Logger
}

// Alerting is what watches over the installation.
type Alerting struct {
	Service *alert.Service

	evaluator  *alert.Evaluator
	dispatcher *alert.Dispatcher
	webhook    *channel.Webhook
	slack      *channel.Slack
	measures   *measures
}

// New makes everything; nothing is asked for or sent yet.
func New(o Options) (*Alerting, error) {
	ports := make([]uint16, len(o.Config.Ports))
	for i, port := range o.Config.Ports {
		ports[i] = uint16(port) // the configuration bounds it
	}
	guard, err := netguard.New(o.Config.AllowNetworks, ports)
	if err != nil {
		return nil, fmt.Errorf("alerts.allow_networks: %w", err)
	}
	a := &Alerting{webhook: channel.NewWebhook(guard, time.Now), slack: channel.NewSlack(guard)}
	if a.measures, err = newMeasures(o.Meter); err != nil {
		return nil, err
	}
	senders := map[alert.Kind]alert.Sender{alert.Webhook: a.webhook, alert.Slack: a.slack}
	if mail := o.Config.SMTP; mail.Host != "" {
		senders[alert.Email], err = channel.NewMail(channel.MailOptions{
			Host: mail.Host, Port: mail.Port, Security: channel.Security(mail.Security),
			Username: mail.Username, Password: mail.Password, From: mail.From,
		})
		if err != nil {
			return nil, fmt.Errorf("alerts.smtp: %w", err)
		}
	}
	store := alertstore.New(o.Store)
	a.Service = alert.NewService(alert.Options{
		Store: store, Ring: o.Ring, Senders: senders, Now: time.Now, Logger: o.Logger,
		CheckURL: func(text string) error { _, err := guard.ParseURL(text); return err },
	})
	a.evaluator = alert.NewEvaluator(alert.EvaluatorOptions{
		Store: store, Figures: o.figures(), Replica: o.ReplicaID, Interval: o.Config.Interval, Logger: o.Logger,
	})
	a.dispatcher = alert.NewDispatcher(alert.DispatcherOptions{
		Outbox: store, Ring: o.Ring, Senders: senders, Replica: o.ReplicaID, Logger: o.Logger, Attempted: a.measures.attempted,
	})
	return a, nil
}

// Tasks need the database, and run until the end.
func (a *Alerting) Tasks() []func(context.Context) error {
	return []func(context.Context) error{a.Service.Run, a.evaluator.Run, a.dispatcher.Run, a.countRules}
}

// Close ends idle connections, once the tasks have ended.
func (a *Alerting) Close() {
	a.webhook.Close()
	a.slack.Close()
}

// figures are what rules can ask for.
func (o Options) figures() alert.Sources {
	return alert.Sources{Usage: o.Store, Refusals: o.Store, Gauges: map[alert.Signal]alert.Gauge{
		alert.QuotaReached:      o.Store.QuotasReached,
		alert.KeyExpiry:         o.Store.FirstKeyExpiry,
		alert.CanaryUsed:        o.Store.CanaryUses,
		alert.TargetsDown:       o.targetsDown,
		alert.CertificateExpiry: o.firstCertificate,
	}}
}

// targetsDown is how many targets this replica sends nothing to.
func (o Options) targetsDown(context.Context, alert.Spec, time.Time) (alert.Reading, error) {
	r := alert.Reading{Known: true}
	for _, b := range o.Backends() {
		for _, t := range b.Targets {
			if t.Available {
				continue
			}
			if r.Value++; r.Subject == "" {
				r.Subject = b.Name + " at " + t.URL
			}
		}
	}
	return r, nil
}

const day = 24 * time.Hour

// firstCertificate is how many days are left to the certificate that expires first.
func (o Options) firstCertificate(_ context.Context, _ alert.Spec, at time.Time) (alert.Reading, error) {
	r := alert.Reading{Known: true, Value: alert.Never, Subject: "no certificate"}
	for _, c := range o.Certificates() {
		if left := float64(c.NotAfter.Sub(at)) / float64(day); !c.NotAfter.IsZero() && left < r.Value {
			r.Value, r.Subject = left, c.File
		}
	}
	return r, nil
}
