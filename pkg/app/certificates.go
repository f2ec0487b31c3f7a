package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/certstore"
)

// openCertificates reads the certificates of the main listener; nil without any.
func (a *application) openCertificates() (*tls.Config, error) {
	t := a.Config.Server.TLS
	if t.CertFile == "" && t.Dir == "" {
		return nil, nil
	}
	var err error
	a.certs, err = certstore.New(certstore.Options{
		CertFile: t.CertFile, KeyFile: t.KeyFile, Dir: t.Dir,
		ClientCAFile: t.ClientCAFile, ClientAuth: certstore.ClientAuth(t.ClientAuth), Logger: a.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("TLS of the main listener: %w", err)
	}
	return a.certs.Config(), a.observeCertificates()
}

// observeCertificates registers how long the certificates are still good for.
func (a *application) observeCertificates() error {
	meter := a.telemetry.MeterProvider().Meter("github.com/keywarden/keywarden/pkg/app")
	_, err := meter.Float64ObservableGauge("keywarden.tls.certificate.expires_in", metric.WithUnit("s"),
		metric.WithDescription("Time until a certificate of the main listener expires; negative once it has."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			for _, c := range a.certs.Certificates() {
				name := ""
				if len(c.Names) > 0 {
					name = c.Names[0]
				}
				o.Observe(time.Until(c.NotAfter).Seconds(), metric.WithAttributes(attribute.String("keywarden.certificate", name)))
			}
			return nil
		}))
	return err
}
