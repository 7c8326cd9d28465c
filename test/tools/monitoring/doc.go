// Package monitoring tests the alerts and the dashboard of deploy/components/monitoring with Prometheus'
// own rule engine and parser, on a daemon's samples.
package monitoring
