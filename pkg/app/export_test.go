package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/app/lifecycle"
	"github.com/keywarden/keywarden/pkg/config"
)

// Routes lists what the engine of a program with this configuration serves. It
// opens everything that the program would, and closes it again.
func Routes(ctx context.Context, cfg *config.Config) (routes gin.RoutesInfo, err error) {
	var closing lifecycle.Cleanups
	defer func() { err = errors.Join(err, closing.Run(ctx)) }()
	a := &application{Options: Options{
		Config: cfg, Logger: slog.New(slog.DiscardHandler),
		Env: Env{Lookup: func(string) (string, bool) { return "", false }},
	}}
	if err := a.open(ctx, &closing); err != nil {
		return nil, err
	}
	engine, err := a.engine()
	if err != nil {
		return nil, err
	}
	return engine.Routes(), nil
}
