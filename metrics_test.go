package main

import (
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/test/metricstable"
)

// Everything is wired as it runs, before an API server that is not there: nothing
// is started. Not parallel: the registry is the process'.
func TestAllMetricsAreInTheTable(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	nowhere := &rest.Config{Host: "http://127.0.0.1:1"}
	mapper := testrestmapper.TestOnlyStaticRESTMapper(scheme)
	direct, err := client.New(nowhere, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(nowhere, ctrl.Options{
		Scheme: scheme, Cache: controllers.CacheOptions(), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	o := standard()
	keeper := certs.New(certs.Options{Client: direct, Namespace: o.namespace, WebhookName: certs.DefaultWebhookName, Logger: ctrl.Log})
	if err := wire(t.Context(), mgr, direct, keeper, o); err != nil {
		t.Fatal(err)
	}
	registry, ok := metrics.Registry.(prometheus.Collector)
	if !ok {
		t.Fatalf("controller-runtime's registry, a %T, does not describe its metrics", metrics.Registry)
	}
	metricstable.Check(t, "operator", registry)
}
