package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywarden/keywarden/pkg/app/lifecycle"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// Times of looking for the database.
const (
	// databasePatience is how long a start that cannot do without the database waits
	// for it: containers start in any order.
	databasePatience = 30 * time.Second

	startPause     = 500 * time.Millisecond // between two attempts of a start
	reconnectPause = time.Second            // between two attempts while requests are served
)

// findDatabase connects the platform. A start that has a gateway document waits
// for no longer than a connection may take to open, and goes on without: routes
// that ask for no credential are served, and the rest follows when the database is
// back; see docs/decisions/0007-start-without-the-database.md.
func (a *application) findDatabase(ctx context.Context) error {
	patience := databasePatience
	if a.optional = a.hasDocument(); a.optional {
		patience = a.Config.Database.ConnectTimeout
	}
	deadline := time.Now().Add(patience)
	for attempt := 0; ; attempt++ {
		err := a.connect(ctx)
		switch {
		case err == nil:
			a.connected = true
			return nil
		case !errors.Is(err, postgres.ErrUnavailable):
			return err
		case time.Now().Before(deadline):
		case a.optional:
			a.Logger.ErrorContext(ctx, "starting without the database: until it is back, no credential can be checked", "error", err)
			return nil
		default:
			return err
		}
		if attempt == 0 {
			a.Logger.WarnContext(ctx, "waiting for the database", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPause):
		}
	}
}

// hasDocument reports whether there is something to serve without the database,
// which is then not one that this process would have to start itself.
func (a *application) hasDocument() bool {
	if a.database.Private {
		return false
	}
	return a.Config.Gateway.File != "" || a.cluster != nil || a.revisions != nil && a.revisions.Kept() == nil
}

// lookAhead asks for the schema while the rest is being made, none of which needs the
// database: to open a connection takes about as long. The first attempt to connect takes
// the answer. Nothing is changed before everything else is known to be well.
func (a *application) lookAhead(ctx context.Context, closing *lifecycle.Cleanups) {
	answer := make(chan schemaAnswer, 1)
	a.ahead = answer
	closing.Go(ctx, "first look at the database", func(ctx context.Context) {
		status, err := a.askSchema(ctx)
		answer <- schemaAnswer{status, err}
	})
}

// schemaAnswer is where the schema stands, or why nobody knows.
type schemaAnswer struct {
	status postgres.SchemaStatus
	err    error
}

// connect makes one attempt: the schema is brought up to date or checked, and the
// platform reads what it needs.
func (a *application) connect(ctx context.Context) error {
	status, err := a.schemaStatus(ctx)
	if err != nil {
		return err
	}
	if err = a.useSchema(ctx, status); err == nil {
		err = a.platform.Connect(ctx)
	}
	if err == nil || errors.Is(err, postgres.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	// A migration does not tell whether the database went away under it.
	if gone := a.ping(ctx); gone != nil {
		return gone
	}
	return err
}

// useSchema brings the schema up to date or checks it. One that is current needs
// neither the lock of those that migrate nor a connection for it: nobody takes back what
// the version says.
func (a *application) useSchema(ctx context.Context, status postgres.SchemaStatus) error {
	switch {
	case status.Current():
		a.Logger.InfoContext(ctx, "the schema is current", "version", status.Version)
		return nil
	case a.Config.Database.MigrateOnStart:
		return migrate(ctx, a.database.URL, a.Logger)
	}
	return checkSchema(ctx, status, a.Logger)
}

// schemaStatus is where the schema stands.
func (a *application) schemaStatus(ctx context.Context) (postgres.SchemaStatus, error) {
	if a.ahead == nil {
		return a.askSchema(ctx)
	}
	answer := <-a.ahead // comes in the time that askSchema takes at most
	a.ahead = nil
	return answer.status, answer.err
}

// askSchema asks where the schema stands, for as long as a connection may take to
// open.
func (a *application) askSchema(ctx context.Context) (postgres.SchemaStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, a.Config.Database.ConnectTimeout)
	defer cancel()
	return a.platform.Store.SchemaStatus(ctx)
}

// ping asks whether the database answers, for as long as a connection may take to
// open.
func (a *application) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.Config.Database.ConnectTimeout)
	defer cancel()
	return a.platform.Store.Ping(ctx)
}

// follow begins following changes, where the platform is connected.
func (a *application) follow(ctx context.Context) error {
	if !a.connected {
		return nil
	}
	err := a.platform.Start(ctx)
	if a.optional && errors.Is(err, postgres.ErrUnavailable) {
		a.connected = false // it went away between two questions
		return nil
	}
	return err
}

// runPlatform runs what needs the database until ctx ends, from the moment that
// there is one.
func (a *application) runPlatform(ctx context.Context) error {
	if !a.connected {
		if err := a.reconnect(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, follow := range append(a.platform.Followers(), a.followers...) {
		group.Go(func() error { return follow(ctx) })
	}
	group.Go(func() error {
		return lifecycle.RunInTurn(ctx, append(a.platform.Chores(a.Logger), a.chores...), chorePause)
	})
	return group.Wait()
}

// chorePause is between two chores that begin. All at once, they would each open a
// connection to the database, ahead of the requests that have waited for the start.
const chorePause = 50 * time.Millisecond

// reconnect tries until the platform is connected and follows changes, or ctx
// ends. What the start would have refused, such as another master key or a schema
// that is too old, ends the program now that it is known.
func (a *application) reconnect(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectPause):
		}
		err := a.connect(ctx)
		if err == nil {
			err = a.platform.Start(ctx)
		}
		switch {
		case err == nil:
			a.Logger.InfoContext(ctx, "the database is there; everything is served")
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the program ends, and that is why
		case !errors.Is(err, postgres.ErrUnavailable):
			return fmt.Errorf("the database is there, but cannot be used: %w", err)
		}
		a.Logger.DebugContext(ctx, "the database is still away", "error", err)
	}
}
