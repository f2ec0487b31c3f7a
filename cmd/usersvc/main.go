// Command usersvc is the sample user service, a backend to try the gateway with.
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
	service := sample.Command{Name: "usersvc", Addr: ":8081", Handler: sample.Users}
	return service.Run(ctx, os.Args[1:], os.Getenv, os.Stderr)
}
