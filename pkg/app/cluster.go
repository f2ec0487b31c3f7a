package app

import (
	"context"
	"errors"
	"strings"

	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/httpapi/systemapi"
	"github.com/keywarden/keywarden/pkg/kubernetes"
	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
)

// openCluster prepares to follow the objects of Kubernetes.
func (a *application) openCluster() {
	k, t := a.Config.Gateway.Kubernetes, a.Config.Server.TLS
	a.cluster = kubernetes.New(kubernetes.Options{
		API:        apiserver.Config{URL: k.APIURL, TokenFile: k.TokenFile, CAFile: k.CAFile},
		Controller: k.Controller, Addresses: k.Addresses, TLS: t.CertFile != "" || t.Dir != "" || len(t.ACME.Domains) > 0,
		Reserved: a.Config.Server.Hosts, WriteStatus: k.Status, LeaseNamespace: k.LeaseNamespace, Holder: a.platform.ReplicaID,
		Target: a.reporter, Logger: a.Logger,
	})
	a.source = a.cluster
	a.tasks = append(a.tasks, func(ctx context.Context) error { a.cluster.Run(ctx); return nil })
}

// errNoObjects says that the gateway has no routes because the objects that they are
// made of were never read.
var errNoObjects = errors.New("the objects of Kubernetes, of which the gateway document is made, could not be read yet")

// clusterCheck is the question of readiness, where a cluster is the source.
func (a *application) clusterCheck() systemapi.Check {
	return systemapi.Check{Name: "gateway_document", DataPlane: true, Ask: func(context.Context) error {
		if !a.cluster.Filled() {
			return errNoObjects
		}
		return nil
	}}
}

// refusedObjects are the objects of the cluster that are not served as they are.
func (a *application) refusedObjects() []adminapi.ObjectError {
	if a.cluster == nil {
		return nil
	}
	var list []adminapi.ObjectError
	for _, r := range a.cluster.Refused() {
		list = append(list, adminapi.ObjectError{Object: strings.ToLower(r.Kind), Name: r.Meta.Key(), Detail: r.Reason + ": " + r.Message})
	}
	return list
}
