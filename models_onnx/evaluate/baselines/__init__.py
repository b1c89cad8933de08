"""What there is without our models, on the same readings: house computers' alarms, daily checks, simple forecasts."""
