package app

import (
	"context"
	"fmt"
	"time"

	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/feed"
)

// scopeName names what the gateway measures and traces.
const scopeName = "github.com/keywarden/keywarden/pkg/gateway"

// openGateway makes the data plane and gives it its document. A document that is
// not valid at the start is an error; later ones are refused and the last good
// one goes on.
func (a *application) openGateway(closing *cleanups) (err error) {
	g := a.Config.Gateway
	if a.decisions, err = decision.NewSealer(a.platform.Ring, time.Now); err != nil {
		return err
	}
	a.gateway, err = gateway.New(gateway.Options{
		Decisions:     a.decisions,
		Authenticator: a.authenticator(), Logger: a.Logger, BodyLimit: int64(g.BodyLimit), Zone: g.Zone,
		Issuer: a.Config.Tokens.Issuer,
		Meter:  a.telemetry.MeterProvider().Meter(scopeName),
		Tracer: a.telemetry.TracerProvider().Tracer(scopeName), Propagator: a.telemetry.Propagator(),
	})
	if err != nil {
		return err
	}
	closing.add("gateway", func(context.Context) error { a.gateway.Close(); return nil })
	if g.File == "" {
		return nil
	}
	a.source = feed.NewFile(g.File, g.Watch, a.gateway, a.Logger)
	if err := a.source.Load(); err != nil {
		return fmt.Errorf("the gateway document: %w", err)
	}
	a.tasks = append(a.tasks, func(ctx context.Context) error { a.source.Run(ctx); return nil })
	return nil
}
