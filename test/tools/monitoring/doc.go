// Package monitoring tries the alerts and the dashboard of
// deploy/components/monitoring with Prometheus' own rule engine and parser, on
// the samples that a daemon would give.
package monitoring
