// Command productsvc is the sample product service, a backend to try the gateway with.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keywarden/keywarden/pkg/sample"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	service := sample.Command{Name: "productsvc", Addr: ":8082", Handler: sample.Products}
	return service.Run(ctx, os.Args[1:], os.Getenv, os.Stderr)
}
