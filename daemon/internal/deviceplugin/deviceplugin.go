// Package deviceplugin serves devices to the kubelet by its device-plugin API (v1beta1).
package deviceplugin
