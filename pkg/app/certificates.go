package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/acme"
	"github.com/keywarden/keywarden/pkg/app/lifecycle"
	"github.com/keywarden/keywarden/pkg/certstore"
	"github.com/keywarden/keywarden/pkg/config"
)

// openCertificates reads the certificates of the main listener; nil without any.
func (a *application) openCertificates(closing *lifecycle.Cleanups) (*tls.Config, error) {
	t := a.Config.Server.TLS
	if t.CertFile == "" && t.Dir == "" && len(t.ACME.Domains) == 0 {
		return nil, nil
	}
	o := certstore.Options{
		CertFile: t.CertFile, KeyFile: t.KeyFile, Dir: t.Dir,
		ClientCAFile: t.ClientCAFile, ClientAuth: certstore.ClientAuth(t.ClientAuth), Logger: a.Logger,
	}
	if len(t.ACME.Domains) > 0 {
		issuer, err := a.openACME(t.ACME, closing)
		if err != nil {
			return nil, fmt.Errorf("server.tls.acme: %w", err)
		}
		o.Issuer = issuer
	}
	var err error
	if a.certs, err = certstore.New(o); err != nil {
		return nil, fmt.Errorf("TLS of the main listener: %w", err)
	}
	return a.certs.Config(), a.observeCertificates()
}

// certificates are those that are served.
func (a *application) certificates() []certstore.Info {
	if a.certs == nil {
		return nil
	}
	return a.certs.Certificates()
}

// orderGrace is how long the end waits for an order of a certificate to notice it.
const orderGrace = 5 * time.Second

// openACME prepares to get certificates; neither the authority nor the database is
// asked before a client asks for one.
func (a *application) openACME(c config.ACME, closing *lifecycle.Cleanups) (*acme.Issuer, error) {
	var roots *x509.CertPool
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", c.CAFile)
		}
	}
	issuer, err := acme.New(acme.Options{
		Domains: c.Domains, Email: c.Email, DirectoryURL: c.DirectoryURL, Roots: roots,
		Store: a.platform.Store, Ring: a.platform.Ring, Holder: a.platform.ReplicaID, Logger: a.Logger, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	closing.Add("ACME", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, orderGrace)
		defer cancel()
		if err := issuer.Close(ctx); err != nil {
			a.Logger.WarnContext(ctx, "an order of a certificate is left to itself", "error", err)
		}
		return nil
	})
	return issuer, nil
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
