package link

import (
	"bufio"
	"log"
	"net"
	"net/http"
	"strconv"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	held         prometheus.Gauge
	answers      *prometheus.CounterVec
	certificates prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_link_held_requests",
			Help: "Requests of sidecars that are held until their Ruleset changes: about one a pod.",
		}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_link_answers_total",
			Help: "Answers to sidecars and peers, by HTTP status.",
		}, []string{"code"}),
		certificates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_link_certificates_total",
			Help: "Certificates to intercept with that were signed for sidecars.",
		}),
	}
}

// counted counts the statuses of a handler.
func (m metrics) counted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		counting := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next(counting, r)
		if !counting.hijacked {
			m.answered(counting.status)
		}
	}
}

func (m metrics) answered(status int) { m.answers.WithLabelValues(strconv.Itoa(status)).Inc() }

type statusWriter struct {
	http.ResponseWriter
	status   int
	hijacked bool // it is answered, and counted, elsewhere
}

// Hijack is of http.Hijacker.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = err == nil
	return conn, buffered, err
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// connectionErrors logs failed handshakes and the like for whoever looks.
func connectionErrors(logger logr.Logger) *log.Logger {
	return log.New(lineLogger{logger.V(1)}, "", 0)
}

type lineLogger struct{ logger logr.Logger }

func (l lineLogger) Write(line []byte) (int, error) {
	l.logger.Info("a connection of the link failed", "error", string(line))
	return len(line), nil
}
